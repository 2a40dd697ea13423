from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler  # noqa: F401
