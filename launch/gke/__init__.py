"""JobSet manifests for Google Kubernetes Engine, queued by Kueue."""
