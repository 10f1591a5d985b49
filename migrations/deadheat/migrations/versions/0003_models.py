"""Models kept by version, and jobs that are batches of calls of one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "model_names",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("newest", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_model_names"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("layers", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("program", sa.LargeBinary(), nullable=True),
        sa.Column("samples", sa.String(128), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("data_hash", sa.String(128), nullable=False),
        sa.Column("code_version", sa.String(32), nullable=False),
        sa.Column("training", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["model_names.name"], name="fk_models_name_model_names"),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("request_id", name="uq_models_request_id"),
        sa.UniqueConstraint("name", "version", name="uq_models_name"),
    )
    op.add_column("jobs", sa.Column("model", sa.String(96), nullable=True))
    op.create_index("ix_jobs_model", "jobs", ["model"])


def downgrade() -> None:
    op.drop_index("ix_jobs_model", "jobs")
    op.drop_column("jobs", "model")
    op.drop_table("models")
    op.drop_table("model_names")
