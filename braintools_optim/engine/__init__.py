"""How a step is computed, and how it is run.

In the order in which ``opt.step(grads)`` meets them:

| module | what it is |
|---|---|
| `step` | the roads that a step may take |
| `observe` | whether anybody would notice a State being read or written |
| `late_state`, `own_state`, `packs` | where numbers, chain states and counts lie between steps |
| `donating` | the programs of eager steps, which compute in the memory of the state |
| `compiled`, `buffers` | what a program depends on; whose memory it takes over |
| `chunks`, `cutting`, `bundle` | many leaves in several calls of few programs |
| `computation` | what is computed, as a pure function of values |
| `leaf`, `plan`, `gradient` | from what users hold to the trees that chains see |
| `accumulate`, `clip`, `finite` | what happens to gradients before and after |
| `view` | what one group's chain sees |
| `layout` | new values stay where on a mesh the old ones are |
| `running`, `reads` | whose chain is traced; whether it reads the learning rate |
| `attributes` | attributes of the user's own classes that a compiled step has read |
| `given_chain`, `extra` | what users give as a chain, and besides gradients to a step |
| `whole_chain` | ``opt.tx`` |
| `writing` | writing all States, or none |

Steps on functions of the user's, as LBFGS takes them: `closure`, `objective`, `loss`, `meaning`.
Whole functions of States, for `train_step`: `program`, `shield`.
"""
