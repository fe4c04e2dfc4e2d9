"""One pass of a tuned model over its backbone: which tensors each operation gets, and whose row is whose.

The tensors of all operations and all distinct tasks of the batch were made before the pass began; rows pick theirs
late, one operation at a time, by index (a batch of one task needs no picking at all).

Legend: B rows, U distinct tasks, S positions, n operations of a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from hyperpelt.attachment.beside import Beside
from hyperpelt.attachment.instances import Instances, expanded
from hyperpelt.attachment.kept import Kept
from hyperpelt.attachment.penalties import Penalties
from hyperpelt.attachment.positions import Positions
from hyperpelt.attachment.row_images import Choice, RowImages, chosen
from hyperpelt.errors import UserError
from hyperpelt.operations import Operation
from hyperpelt.tuners.base import Site, Tensors, Tuner
from hyperpelt.tuners.prefix import PrefixRows, together
from hyperpelt.tuners.remade import picked


@dataclass(frozen=True)
class Placed:
    """A tuner at one operation, with the keys and indices of its tensors: name -> (group key, index in the group).

    A **visual** one draws its tensors from images, and works on the rows that have images; those of a **reading** one
    are made of what its operation reads.
    """

    tuner: Tuner
    tensors: Mapping[str, tuple[str, int]]
    visual: bool = False
    reading: bool = False
    place: int = 0  # among the tuners there


NOTHING: Mapping[str, Tensor] = {}
# Operation name -> the tuners there, in the order of the method's parts.
Plan = Mapping[str, Sequence[Placed]]


@dataclass
class Pass:
    """The state of one forward, generation or scoring run.

    - **made**: for each group key the tensors of its n operations, [U, n, *shape] (or [1, n, *shape] if shared);
      **each**: the same, one tensor an operation; **by_row**: of groups of vectors, for each row, see `each_row`
    - **rows** [B]: index into the U distinct tasks, or None if there is one
    - **mask** [B S]: real positions of the encoder's input; **special** [B S]: see `Site`
    - **images**: of the rows, None if no row has any
    - **kept**: what its attentions ask for again
    - **training**: whether tuners may draw; **penalties**: where what they add to the loss is noted, if it counts
    - **positions**: what tuners need of those that a call does not show; **beside**: what a side network has seen
    - **instances**: what is made of rows; **owners** [n]: the row of each position at which alone the head is asked
    - **reached**: how often each (operation, point) was tuned, for the check that none was passed over
    """

    plan: Plan
    made: Mapping[str, Tensor]
    each: Mapping[str, Sequence[Tensor]]
    by_row: Mapping[str, Sequence[Tensor]]
    rows: Int[Tensor, " B"] | None
    kept: Kept  # no default: torch's compiler cannot make one that a dataclass asks for
    mask: Bool[Tensor, "B S"] | None = None
    special: Mapping[str, Tensor] = field(default_factory=dict)
    images: RowImages | None = None
    training: bool = False
    penalties: Penalties | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    residuals: dict[str, Tensor] = field(default_factory=dict)
    picked: dict[Any, Tensor] | None = None
    positions: Positions | None = None
    instances: Instances | None = None
    beside: Beside | None = None
    owners: Int[Tensor, " n"] | None = None
    reached: Counter[tuple[str, str]] | None = None

    def has(self, operation: Operation) -> bool:
        """Whether any tuner sits there."""
        return operation.name in self.plan

    def wants_residual(self, operation: Operation) -> bool:
        """Whether a tuner there reads the hidden state that its output is about to join."""
        return any(placed.tuner.needs_residual for placed in self.plan.get(operation.name, ()))

    def tensors(self, placed: Placed, site: Site) -> dict[str, Tensor]:
        """The tensors of one tuner for the rows at `site`: [num_rows, *shape], or [1, *shape] where rows share them."""
        num_rows, own = site.input.shape[0], NOTHING
        if placed.reading and self.instances is not None:
            own = self.instances.at(site, self.mask, self.seen)
        return {
            name: own[key] if key in own else self._pick(key, index, num_rows)
            for name, (key, index) in placed.tensors.items()
        }

    @property
    def seen(self) -> Positions:
        """What the pass remembers of positions, from when it is first asked for."""
        self.positions = self.positions or Positions()
        return self.positions

    def _pick(self, key: str, index: int, num_rows: int) -> Tensor:
        if self.instances is not None and self.instances.made is not None and key in self.instances.made:
            return expanded(self.instances.made[key][index], num_rows)
        values = self.each[key][index]
        if self.rows is None or values.shape[0] == 1:
            return values
        if key in self.by_row and num_rows == self.rows.shape[0]:
            return self.by_row[key][index]
        if self.picked is not None and (key, index, num_rows) in self.picked:
            return self.picked[key, index, num_rows]
        chosen = picked(values, expanded(self.rows, num_rows))
        if self.picked is not None:
            self.picked[key, index, num_rows] = chosen
        return chosen

    def of_images(self, placed: Placed, choice: Choice, num_rows: int, order: int = 0) -> dict[str, Tensor]:
        """The tensors that were made of image number `order` of each chosen one of `num_rows` rows; those of other
        sources as ever."""
        assert self.images is not None
        values: dict[str, Tensor] = {}
        images, seen = choice.images[order], self.images.made
        for name, (key, index) in placed.tensors.items():
            # Choices live as long as the images of the pass, so their identity may name them.
            label = ("image", key, index, id(choice), order)
            if key not in seen:
                values[name] = choice.of(self._pick(key, index, num_rows), num_rows)
            elif images is None:
                values[name] = seen[key][index]
            elif self.picked is None:
                values[name] = seen[key][index].index_select(0, images)
            else:
                if label not in self.picked:
                    self.picked[label] = seen[key][index].index_select(0, images)
                values[name] = self.picked[label]
        return values

    def row_images(self, num_rows: int) -> RowImages:
        """The images of the rows, of a batch in which each stands as often as in `num_rows`."""
        assert self.images is not None
        return self.images.expanded(num_rows)

    def _site(
        self, operation: Operation, read: Tensor, output: Tensor | None, frozen: Mapping[str, Tensor] = NOTHING
    ) -> Site:
        special = self.special.get(operation.stack)
        in_encoder = operation.stack == "encoder"
        return Site(
            operation=operation,
            input=read,
            output=output,
            # Without a norm of its own before it (post-norm models), an operation reads the residual itself.
            residual=self.residuals.get(operation.name, read) if self.wants_residual(operation) else None,
            mask=self.mask if in_encoder else None,
            special=None if special is None else expanded(special, read.shape[0]),
            frozen=frozen,
            training=self.training,
        )

    def placed_at(self, operation: Operation, point: str) -> list[Placed]:
        """The tuners of that point there, in order; visual ones only where the batch has images."""
        seeing = self.images is not None
        found = [p for p in self.plan[operation.name] if p.tuner.point == point and (seeing or not p.visual)]
        if found and self.reached is not None:
            self.reached[operation.name, point] += 1
        return found

    def tuned_output(
        self,
        operation: Operation,
        read: Float[Tensor, "B S d"],
        output: Float[Tensor, "B S e"],
        frozen: Mapping[str, Tensor] = NOTHING,
    ) -> Float[Tensor, "B S e"]:
        """OP(x) plus the delta of every tuner there; each tuner sees what those before it left.

        - **frozen**: buffers of what stands in OP's place
        """
        for placed in self.placed_at(operation, "output"):
            output = self._added(placed, self._site(operation, read, output, frozen), output)
        self.residuals.pop(operation.name, None)
        return output

    def tuned_norm(
        self,
        operation: Operation,
        read: Float[Tensor, "B S d"],
        plain: Callable[[], Float[Tensor, "B S d"]],
        frozen: Mapping[str, Tensor],
    ) -> Float[Tensor, "B S d"]:
        """`tuned_output` of a norm.

        - **plain**: computes the norm alone, where a tuner does not give the whole; **frozen**: its weight and bias
        """
        found, output = self.placed_at(operation, "output"), None  # none, where only images bring one
        if found and not found[0].visual:
            site = self._site(operation, read, None, frozen)
            output = self._whole(found[0], site, self.tensors(found[0], site))
        others = found if output is None else found[1:]
        output = plain() if output is None else output
        for placed in others:
            output = self._added(placed, self._site(operation, read, output), output)
        self.residuals.pop(operation.name, None)
        return output

    def tuned_input(self, operation: Operation, read: Float[Tensor, "B S d"]) -> Float[Tensor, "B S d"]:
        """What a block reads, plus the delta of every tuner of its input."""
        for placed in self.placed_at(operation, "input"):
            read = self._added(placed, self._site(operation, read, None), read)
        return read

    def _added(self, placed: Placed, site: Site, values: Float[Tensor, "B S e"]) -> Float[Tensor, "B S e"]:
        """`values` plus what the tuner gives at `site`; a visual one, what it gives for each image of a row."""
        num_rows = values.shape[0]
        if not placed.visual:
            tensors = self.tensors(placed, site)
            whole = self._whole(placed, site, tensors)
            return values + self.call(placed, site, tensors).to(values.dtype) if whole is None else whole
        for order, choice in enumerate(self.row_images(num_rows).by_order):
            own = self.of_images(placed, choice, num_rows)
            values = choice.add(values, self.call(placed, site, own, choice, order))
        return values

    def _whole(self, placed: Placed, site: Site, tensors: dict[str, Tensor]) -> Tensor | None:
        """What stands in OP(x)'s place, if the tuner gives that."""
        whole = placed.tuner.whole(site, tensors)
        if whole is not None:
            self._note(placed, site, tensors, None)
        return whole

    def call(
        self, placed: Placed, site: Site, tensors: dict[str, Tensor], choice: Choice | None = None, order: int = 0
    ) -> Any:
        """What a tuner gives at `site`, for a choice of its rows; its penalties are noted."""
        if placed.tuner.needs_first or placed.tuner.looks_back:
            site = self.seen.told(site, placed.tuner, (placed.place, order), choice)
        site = site if choice is None else chosen(site, choice)
        made = placed.tuner(site, tensors)
        self._note(placed, site, tensors, made, choice, order)
        return made

    def _note(
        self, placed: Placed, site: Site, tensors: Tensors, made: Any, choice: Choice | None = None, order: int = 0
    ) -> None:
        if self.penalties is not None and placed.tuner.penalties:
            # Choices live as long as the pass, so their identity may name them.
            if site.operation.reads_encoder:
                own = self.mask
                if own is not None and choice is not None:
                    own = choice.of(own, self.row_images(len(own)).num_rows)
                site = replace(site, mask=own)
            self.penalties.note(
                placed.tuner, site, tensors, made, (placed.place, 0 if choice is None else id(choice), order), choice
            )

    def parts(self, operation: Operation, num_rows: int) -> RowImages | None:
        """The images of the rows where they bring prefix rows to this attention, else None."""
        seen = self.images is not None and any(
            placed.visual and placed.tuner.point == "attention" for placed in self.plan[operation.name]
        )
        return self.row_images(num_rows) if seen else None

    def prefix(
        self,
        operation: Operation,
        num_rows: int,
        choice: Choice | None = None,
        project: Callable[[str, Tensor], Tensor] | None = None,
    ) -> PrefixRows | None:
        """All prefix rows of an attention, joined, those of a row's images last; None if it has none.

        - **choice**: for these of the `num_rows` rows alone; **project**: see `Site`
        """
        found = self.placed_at(operation, "attention") if self.has(operation) else []
        if choice is not None:
            found = [placed for placed in found if not placed.visual or choice.num_images]
        if not found:
            return None
        site = replace(self._site(operation, self.inputs[operation.name], None), project=project)
        parts: list[PrefixRows] = []
        for placed in found:
            if choice is None:
                parts.append(self.call(placed, site, self.tensors(placed, site)))
            elif not placed.visual:
                tensors = self.tensors(placed, site)
                own = {name: choice.of(values, num_rows) for name, values in tensors.items()}
                parts.append(self.call(placed, site, own, choice))
            else:
                each = range(choice.num_images)
                own = [self.of_images(placed, choice, num_rows, i) for i in each]
                parts += [self.call(placed, site, own[i], choice, i) for i in each]
        if len(parts) == 1:
            return parts[0]
        if any(part.gate is not None for part in parts):
            raise UserError(
                f"Two prefixes meet at {operation.name!r} and one is gated: in a decoder a gated prefix must be alone "
                "at its attention. Change the `at` of one of the parts, or make them one prefix."
            )
        return together(parts)


def each_row(made: Mapping[str, Num[Tensor, "u n *shape"]], rows: Int[Tensor, " B"]) -> dict[str, Sequence[Tensor]]:
    """The vectors of each row, [B, d] an operation, by group key: all operations' are picked at once, in one kernel
    where there would be one an operation, and as many backward. Matrices are too large to be there for all at a time.
    """
    vectors = {key: values for key, values in made.items() if values.dim() == 3 and values.shape[0] > 1}
    return {key: values.index_select(0, rows).unbind(1) for key, values in vectors.items()}
