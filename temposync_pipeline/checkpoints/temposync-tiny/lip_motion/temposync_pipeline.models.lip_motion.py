from temposync_pipeline.models.lip_motion import TempoSyncDenoiser  # noqa: F401
