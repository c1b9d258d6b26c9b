"""Ingestion: models learn the messages of Kafka and NATS JetStream, each exactly once.

The position after a message is committed to the event log together with its event. Public names: `Ingest`,
which starts a `Consumer` for each topic of `BNP_INGEST`. It imports models and storage, and no route.
"""
