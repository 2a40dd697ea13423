from temposync_pipeline.models.viseme_classifier import VisemeClassifier  # noqa: F401
