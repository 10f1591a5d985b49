"""What every deadheat process is made of: errors, settings, logs, programs, channels, children."""

import os

# gRPC's core writes its own notes (failed handshakes, say) to stderr, beside our one clear line.
# It reads this when it is first imported, which is after this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
