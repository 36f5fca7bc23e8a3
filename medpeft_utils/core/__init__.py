"""What every room uses: errors, registries, whole files, leases, hashes. It imports nothing of the other rooms."""
