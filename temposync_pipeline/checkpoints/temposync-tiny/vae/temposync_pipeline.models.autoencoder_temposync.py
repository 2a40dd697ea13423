from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync  # noqa: F401
