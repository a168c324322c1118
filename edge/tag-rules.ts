import type { UpstreamOptions } from './config.ts'
import type { ManifestsDeps } from './mirror/manifests.ts'

/** How the tags and manifests of each upstream are answered. */
export function rulesOf(upstreams: readonly UpstreamOptions[]): ManifestsDeps['rules'] {
  const rules = new Map(
    upstreams.map(({ id, access, tag_ttl, tag_wait, max_stale, negative_ttl, rate_budget }) => [
      id,
      {
        mayRefresh: access !== 'passthrough',
        ttlMs: tag_ttl,
        waitMs: tag_wait,
        maxStaleMs: max_stale ?? Infinity,
        negativeTtlMs: negative_ttl,
        rateBudget: rate_budget,
      },
    ]),
  )
  return (upstream) => {
    const found = rules.get(upstream)
    if (found === undefined) throw new Error(`there is no upstream ${upstream}`)
    return found
  }
}
