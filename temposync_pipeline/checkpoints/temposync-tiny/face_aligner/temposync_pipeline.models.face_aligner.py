from temposync_pipeline.models.face_aligner import FaceAligner  # noqa: F401
