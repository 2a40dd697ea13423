"""A pipeline's plain settings: checked, written to model_index.json, and kept when another pipeline is made of its components."""

from typing import Any, NamedTuple

from ..errors import InvalidInputError


class Setting(NamedTuple):
    """What a setting is unless given, and between which limits it must lie."""

    default: float
    most: float
    least: float = 0
    unit: str = ""


class PipelineSettings:
    """For a pipeline whose class says which `SETTINGS` its constructor takes.

    diffusers' users make pipelines as `Pipeline(**pipe.components)`, and `components` holds modules only. So the network that denoises,
    which the settings were found for, carries along what the pipeline that last listed it was set to; a constructor takes from there what
    it is not given.
    """

    SETTINGS: dict[str, Setting] = {}
    backbone = "denoiser"  # the component that denoises
    config: Any

    def register_settings(self, **given: float | None) -> None:
        """Check settings and put them into the config; raises InvalidInputError for one outside its limits."""
        carried = getattr(getattr(self, self.backbone), "pipeline_settings", {})
        chosen = {}
        for name, setting in self.SETTINGS.items():
            value = chosen[name] = carried.get(name, setting.default) if given[name] is None else given[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not setting.least <= value <= setting.most:
                raise InvalidInputError(f"{name} must lie in [{setting.least}, {setting.most}]{setting.unit}, got {value!r}")
        self.register_to_config(**chosen)  # type: ignore[attr-defined]

    @property
    def components(self) -> dict[str, Any]:
        """The modules, by their names in the constructor."""
        parts = super().components  # type: ignore[misc]
        if parts.get(self.backbone) is not None:
            parts[self.backbone].pipeline_settings = {name: self.config[name] for name in self.SETTINGS if name in self.config}
        return parts
