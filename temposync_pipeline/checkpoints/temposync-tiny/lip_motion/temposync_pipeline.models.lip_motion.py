from temposync_pipeline.models.lip_motion import LipMotion  # noqa: F401
