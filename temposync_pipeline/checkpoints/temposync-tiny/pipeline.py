from temposync_pipeline import TempoSyncPipeline  # noqa: F401
