"""Command lines: wf, wf-train, wf-convert, wf-serve, wf-eval."""
