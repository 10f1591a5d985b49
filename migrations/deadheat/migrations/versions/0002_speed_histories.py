"""What sub-tasks taught about speed: a device's bias and calibration, and how far to trust it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("devices", sa.Column("bias", sa.Double(), nullable=False, server_default="1"))
    # An empty one matches no claims: what a device says next is taken as new.
    op.add_column(
        "devices", sa.Column("calibration", sa.String(16), nullable=False, server_default="")
    )
    op.add_column(
        "speed_points",
        sa.Column("operation", sa.String(32), nullable=False, server_default="product"),
    )
    op.create_table(
        "speed_kinds",
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("dtype", sa.String(16), nullable=False),
        sa.Column("shape_class", sa.String(16), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("outliers", sa.Integer(), nullable=False),
        sa.Column("outliers_in_a_row", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "device", "operation", "dtype", "shape_class", name="pk_speed_kinds"
        ),
    )


def downgrade() -> None:
    op.drop_table("speed_kinds")
    op.drop_column("speed_points", "operation")
    op.drop_column("devices", "calibration")
    op.drop_column("devices", "bias")
