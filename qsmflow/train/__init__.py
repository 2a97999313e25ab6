"""Training of the networks: samples, pairs, Lightning modules, and the experiments of the papers."""
