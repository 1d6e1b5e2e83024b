"""The routes for operators: health, nodes, queues, alerts, audit, metrics, Flower."""
