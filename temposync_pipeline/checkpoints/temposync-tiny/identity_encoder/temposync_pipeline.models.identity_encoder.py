from temposync_pipeline.models.identity_encoder import IdentityEncoder  # noqa: F401
