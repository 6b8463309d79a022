"""Jobs, metrics and events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("command", JSON, nullable=False),
        sa.Column("out", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("recipe", sa.Text),
        sa.Column("cluster", sa.String(16), nullable=False),
        sa.Column("cluster_job", sa.Text),
        sa.Column("devices", sa.Integer, nullable=False),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("given", JSON),
        sa.Column("host", sa.Text),
        sa.Column("pid", sa.BigInteger),
        sa.Column("pid_started", sa.Double),
        sa.Column("heartbeat", TIME),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("steps", sa.BigInteger, nullable=False),
        sa.Column("best", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("exit_code", sa.Integer),
        sa.Column("created", TIME, nullable=False),
        sa.Column("queued", TIME, nullable=False),
        sa.Column("started", TIME),
        sa.Column("finished", TIME),
        sa.Column("resumes", sa.Integer, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_out", "job", ["out"])
    op.create_index("job_queue", "job", ["state", "queued"])
    job = sa.ForeignKey("job.id", ondelete="CASCADE")
    op.create_table(
        "metric",
        sa.Column("job_id", sa.Integer, job, primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("frames", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_job_id", "event", ["job_id"])


def downgrade() -> None:
    for table in ("event", "metric", "job"):
        op.drop_table(table)
