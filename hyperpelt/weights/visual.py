"""Visual weight sources: tensors made of an image's features, a set for each image.

With f[g] the frozen feature of grid cell g, measured in the deviations of the training images' features, and o the
place of the image among those of its row:

    visual_hypernetwork   z[g] = W f[g] + c + e_o                       HyperPELT's visual hyper-embedding (2203.03878)
                          I[l,j,g] = h_I([z[g] ; l_l,g ; b_j,g])        a second, separate hypernetwork from here on:
                          row g = head(I[l,j,g]),  other = head(mean_g I[l,j,g])
    visual_projector      row g = s P(f[g]) + a_o,g                     one set of rows for all operations of a tensor

P is linear, linear with a layer norm (VL-Adapter, 2112.06825), or two maps with a silu between (MemVP, 2405.05615);
tensors of one width share it. Row-wise tensors get one row a cell. All images of a batch go through each map at once.

Legend: N images, G cells, Dv width of a feature, t embedding width, n operations, d width of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hyperpelt.errors import UserError
from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import Group, Samples, TensorSource, draw, safe, standardise
from hyperpelt.weights.hypernetwork import HyperNetwork
from hyperpelt.weights.visual_config import ProjectorConfig, VisualConfig, VisualHyperConfig

# Stand-ins for images while the spread of fresh hyper-embeddings is measured.
STAND_INS = 16


class VisualSource(TensorSource):
    """Base of the visual weight sources: what they know of features."""

    def __init__(self, groups: Sequence[Group], config: VisualConfig) -> None:
        super().__init__(groups)
        self.config = config
        for group in groups:
            if group.spec.row_wise and group.spec.shape[0] != config.cells:
                raise UserError(
                    f"Part {group.part!r} has length {group.spec.shape[0]}, but an image has {config.cells} grid cells "
                    f"and gives one row a cell: set the length of its tuner to {config.cells}."
                )
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_std", torch.ones(config.feature_dim))

    @torch.no_grad()
    def standardise(self, features: Float[Tensor, "N G Dv"]) -> None:
        """Measure features in the mean and deviation of these; a dimension that never varies is only centred."""
        flat = features.flatten(0, 1).double()
        mean, std = flat.mean(0), flat.std(0, correction=0)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, 1.0))

    def measured(self, features: Float[Tensor, "N G Dv"]) -> Float[Tensor, "N G Dv"]:
        """Features in units of `standardise`."""
        return (features - self.feature_mean) / self.feature_std

    def check_images(self, most: int) -> None:
        """Raises:
        UserError: a row has more images than there are places.
        """
        if most > self.config.max_images:
            raise UserError(
                f"A row has {most} images, the method takes {self.config.max_images}: set `max_images` higher."
            )

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        """None: nothing here belongs to a task."""
        return iter(())

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        """Nothing to make room for: images are of every task."""

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "N G Dv"], order: Int[Tensor, " N"]
    ) -> dict[str, Float[Tensor, "N n *shape"]]:
        """For each group key the tensors made of each image; **order**: its place among those of its row."""


class VisualHyperNetwork(VisualSource):
    """`visual_hypernetwork`; see the module's text."""

    type_name = "visual_hypernetwork"

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        config: VisualHyperConfig,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(groups, config)
        width, t = config.feature_dim, config.network.embedding_dim
        # Unit deviation, as the embeddings of tasks have.
        self.mapping = nn.Parameter(draw((width, t), Init("uniform", (3 / width) ** 0.5), generator))
        self.mapping_bias = nn.Parameter(draw((t,), Init("zeros"), generator))
        self.order_embeddings = nn.Parameter(draw((config.max_images, t), Init("normal", 1.0), generator))
        self.network = HyperNetwork(
            groups, STAND_INS, config=config.network, samples=samples, generator=generator, num_rows=config.cells
        )
        self.network.register_parameter("task_embeddings", None)  # images stand in their place

    def matrices(self) -> dict[str, int]:
        """Names of the matrices of this module and the width of what each reads."""
        return {"mapping": self.config.feature_dim}

    def visual_embeddings(self, features: Float[Tensor, "N G Dv"], order: Int[Tensor, " N"]) -> Float[Tensor, "N G t"]:
        """z of each cell of each image."""
        mapped = self.measured(features) @ self.mapping + self.mapping_bias
        return mapped + self.order_embeddings.index_select(0, order).unsqueeze(1)

    def forward(
        self, features: Float[Tensor, "N G Dv"], order: Int[Tensor, " N"]
    ) -> dict[str, Float[Tensor, "N n *shape"]]:
        return self.network.tensors_of(self.visual_embeddings(features, order))


class Projector(nn.Module):
    """P: from features to rows of width d, of unit deviation at the start (times `scale`)."""

    def __init__(self, config: ProjectorConfig, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        sizes = [config.feature_dim, *([config.hidden] if config.hidden else []), width]
        self.weights = nn.ParameterList(
            draw((a, b), Init("uniform", (3 / a) ** 0.5), generator) for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(draw((b,), Init("zeros"), generator) for b in sizes[1:])
        self.norm = nn.LayerNorm(width) if config.normalise else None
        self.scale = config.scale

    def matrices(self) -> dict[str, int]:
        """Names of the matrices and the width of what each reads."""
        return {f"weights.{i}": weight.shape[0] for i, weight in enumerate(self.weights)}

    def forward(self, features: Float[Tensor, "N G Dv"]) -> Float[Tensor, "N G d"]:
        rows = features @ self.weights[0] + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            rows = torch.nn.functional.silu(rows) @ weight + bias
        return (rows if self.norm is None else self.norm(rows)) * self.scale


class VisualProjector(VisualSource):
    """`visual_projector`; see the module's text."""

    type_name = "visual_projector"

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        config: ProjectorConfig,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(groups, config)
        for group in groups:
            if not group.spec.row_wise:
                raise UserError(
                    f"The weight source 'visual_projector' makes rows (of prompts, memories), not the tensor "
                    f"{group.tensor!r} of part {group.part!r}: use 'visual_hypernetwork' there."
                )
        widths = sorted({group.spec.shape[1] for group in groups})
        self.projectors = nn.ModuleDict({str(width): Projector(config, width, generator) for width in widths})
        self.places = nn.ParameterDict()
        for group in groups:
            real = standardise(group, samples)
            # What is measured like real rows has its spread from P alone.
            init = group.spec.init if group.spec.init.kind in ("normal", "uniform") else Init("zeros")
            self.places[safe(group.key)] = nn.Parameter(draw((config.max_images, *group.spec.shape), init, generator))
            if real is not None:
                self.register_buffer(f"{safe(group.key)}__mean", real[0])
                self.register_buffer(f"{safe(group.key)}__std", real[1])

    def forward(
        self, features: Float[Tensor, "N G Dv"], order: Int[Tensor, " N"]
    ) -> dict[str, Float[Tensor, "N n *shape"]]:
        features = self.measured(features)
        projected = {width: project(features) for width, project in self.projectors.items()}
        made = {}
        for key, group in self.groups.items():
            rows = projected[str(group.spec.shape[1])] + self.places[safe(key)].index_select(0, order)
            rows = rows.unsqueeze(1).expand(-1, len(group.places), -1, -1)
            centre = getattr(self, f"{safe(key)}__mean", None)
            made[key] = rows if centre is None else centre + getattr(self, f"{safe(key)}__std") * rows
        return made
