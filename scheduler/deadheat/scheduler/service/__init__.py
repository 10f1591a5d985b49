"""The shell around the core: gRPC services, the store's keeper, and the carrying out of effects."""
