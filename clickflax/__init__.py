"""Clickstream logs to recommendations, with sequence models in JAX.

Events become sequences, sequences become packed batches, a model (embedder, encoder, head)
answers, a task says what was asked and how wrong the answer is, and a run folder keeps all that
was learned.

 raw logs ──data/──► prepared data set ──batches──► batch ──model──► answers ──task──► loss, metrics
                                                              ▲                           │
                                       checkpoint (transfer) ─┴──────── train ◄───────────┘
                                                                          │
                            run folder ──► evaluate · recommend

Importing this package imports neither JAX nor anything else that takes time.
"""

__version__ = "0.1.0"
