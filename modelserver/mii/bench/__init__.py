"""`mii bench`: closed-loop clients against any OpenAI-compatible or MII endpoint.

workload (PURE: lengths, prompts) ─> load (N clients) ─> drivers (one per API) ─> records
         ─> measure (PURE: records → summary) ─> report (table, JSON lines, plot)
"""
