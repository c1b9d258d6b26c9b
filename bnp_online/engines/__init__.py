"""Engines of a learner: numba on the CPU for multilayer perceptrons, torch for everything else.

`base` has the specification of a learner and the interface of the engines, `choice` selects one. All engines
have the same state by name. The package imports the method (`bnp_online.preconditioner`, `moments`,
`network`, `mixture`), and nothing of the learner around it.
"""
