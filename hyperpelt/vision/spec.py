"""What a model must know of the features that it reads: where they come from, and their shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hyperpelt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VisualSpec:
    """Features [N, G, Dv] of images.

    - **dim** Dv: width of a cell's feature
    - **grid** (rows, columns): G = rows * columns cells; (1, 1) if pooled
    - **encoder**: name or folder that `load_image_encoder` takes, "" if the features come from elsewhere
    - **fingerprint**: of the encoder's configuration, weights, preprocessing and grid: equal ones give equal features
    - **pooled**: whether the one cell is the encoder's own pooled output
    - **precision**: that the encoder computes in, `float32` or `bfloat16`
    """

    dim: int
    grid: tuple[int, int]
    encoder: str = ""
    fingerprint: str = ""
    pooled: bool = False
    precision: str = "float32"

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VisualSpec:
        values: dict[str, Any] = {**data, "grid": tuple(data["grid"])}
        return cls(**values)

    def require(self, other: VisualSpec) -> None:
        """Raises:
        UserError: features of `other` are not what a model made for these features reads.
        """
        if (self.dim, self.cells) != (other.dim, other.cells):
            raise UserError(
                f"Expected features of {self.cells} cells of width {self.dim} ({self.encoder or 'as built'}), got "
                f"{other.cells} cells of width {other.dim} ({other.encoder or 'unnamed'}): use the encoder and grid "
                "the model was built with."
            )
        if self.fingerprint and other.fingerprint and self.fingerprint != other.fingerprint:
            raise UserError(
                f"The model was trained on features of image encoder {self.encoder!r} (fingerprint "
                f"{self.fingerprint[:12]}), got {other.encoder!r} ({other.fingerprint[:12]}): the weights, the "
                "preprocessing, the grid or the precision differ. Use the same encoder."
            )
