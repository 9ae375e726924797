"""The chains that an optimizer runs, and what they are like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from .engine.extra import more_given, refuse_untaken
from .engine.given_chain import built_chain, fixed_chain
from .engine.reads import noting_reads
from .engine.running import Running
from .engine.view import GroupView
from .engine.whole_chain import whole_chain
from .groups import ParamGroup
from .hyper import Hyper
from .leafwise import is_leafwise, leafwise
from .other_libraries import is_defined_here
from .precision import Precision
from .transforms import decayed_weights, scale_by_adam

__all__ = ['RunsChains']


class RunsChains:
    """Mixin of `OptaxOptimizer`: the chain of each group, and what it says of it."""

    complex_as_real = True
    """Whether the chain sees complex parameters as pairs of reals, as torch treats them."""
    gradient_layouts: frozenset[str] = frozenset({'dense'})
    """What gradients the chain takes: 'dense' arrays, 'sparse' `jax.experimental.sparse.BCOO`."""
    more_gradients: tuple[str, ...] = ()
    """The arguments of a step that are gradients, too, and go the way of ``grads`` to the chain."""
    no_accumulation: str = ''
    """Why it cannot add up the gradients of several steps, empty where it can."""
    first_moments: tuple[str, ...] = ('mu',)
    """The names of what the chain keeps in ``mu_dtype``, where that is given."""
    never_negative: tuple[str, ...] = ('nu',)
    """The names of what is nowhere negative in the state, such as sums of squares."""
    weight_decays: tuple[str, ...] = ('weight_decay',)
    """The numbers that are zero for what ``decay_mask`` takes the decay from."""

    _tx: optax.GradientTransformation | None
    _groups: list[ParamGroup]
    _precision: Precision
    _running: Running

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if vars(cls).keys().isdisjoint(['transform', 'default_tx']):
            return
        of_any_chain = {'first_moments': RunsChains.first_moments, 'never_negative': ()}
        for said, of_any in of_any_chain.items():
            if said not in vars(cls):  # what was said is of the chain that it replaces
                setattr(cls, said, of_any)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Return the chain for one group's values: what a subclass overrides.

        It is called wherever a step is traced. The numbers in ``h`` are traced there, so use
        them in arithmetic, not in conditions; flags are plain values.
        """
        return optax.chain(
            decayed_weights(h.weight_decay),
            scale_by_adam(),
            optax.scale_by_learning_rate(h.lr),
        )

    def default_tx(self) -> optax.GradientTransformation:
        """Return the chain that runs when no ``tx`` is given.

        Programs written for braintools override this. Such a chain is built once for each group;
        its learning rate is live through ``self._lr_scheduler``, all else in it is fixed.
        :meth:`transform` keeps everything live.
        """
        return self._live(lambda: self._running.hyper_for_rate() or self._groups[0].hyper())

    @property
    def tx(self) -> optax.GradientTransformation:
        """The live optax transformation of group 0: it follows every change of its values.

        It does what a step does to gradients, clipping and signs included; its state is that of the
        chain. Under ``jax.jit``, which does not know of States, the values stay as they were when
        the function was traced: if they change, use :meth:`step`, or brainstate's ``jit``.
        """
        group = self._groups[0]
        chain = group.fixed_chain or self._live(lambda: group.hyper())
        return whole_chain(self, group, self._precision.over(chain))  # type: ignore[arg-type]  # mixed into one

    def _live(self, current: Callable[[], Hyper]) -> optax.GradientTransformationExtraArgs:
        def init(params: Any) -> Any:
            return self.transform(current()).init(params)

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            chain = optax.with_extra_args_support(self.transform(current()))
            return chain.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(init, update)

    def _chain(
        self, group: ParamGroup, h: Hyper, keep: Callable[..., Any] | None = None
    ) -> optax.GradientTransformation:
        """Return the chain of a group for its values; ``keep`` constrains masters."""
        chain = group.fixed_chain
        if chain is None:
            chain = built_chain(f'{type(self).__name__}.transform', self.transform, h)
        return self._precision.over(noting_reads(self, chain, h), keep)  # type: ignore[arg-type]  # mixed into one

    def _checked_extra(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Return what a step is given besides gradients, or raise if it lacks something."""
        if extra:
            refuse_untaken(self, extra)  # type: ignore[arg-type]  # mixed into one
        return extra

    def _chain_extra(self, extra: dict, view: GroupView) -> dict:
        """Return what the chain of a group takes besides gradients, given what step was given."""
        also = more_given(self, extra)  # type: ignore[arg-type]  # mixed into one
        loss = view.of_loss(extra) if view.differs else {}
        return extra | loss | {k: view.gradients(grads) for k, grads in also.items()}

    def _is_leafwise(self) -> bool:
        """Whether the chain of every group updates each leaf by itself."""
        return is_leafwise(self.transform) and all(g.fixed_chain is None for g in self._groups)

    def _is_known(self) -> bool:
        """Whether its chains are this library's, so that it is known what they take."""
        return is_defined_here(self.transform) and all(g.fixed_chain is None for g in self._groups)

    def _searches(self) -> bool:
        """Whether a step needs the loss, and the function that computes it."""
        return False

    def _fixed_chain(self, h: Hyper) -> optax.GradientTransformation | None:
        """Return the chain that is built once for a group's values, if this is such a class."""
        return fixed_chain(self, RunsChains, h)  # type: ignore[arg-type]  # mixed into one
