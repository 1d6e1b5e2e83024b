"""Routes for operators: health, nodes, queues, alerts, audit, metrics, Flower."""
