from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser  # noqa: F401
