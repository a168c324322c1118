import type { Digest } from '../../shared/oci/digest.ts'
import type { BlobSource } from '../../shared/stream/blob-source.ts'
import type { UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { Origin } from '../cache/cache-index.ts'

/** Where a blob's bytes may come from, and who may share them while they come. */
export interface BlobSources {
  of(origin: Origin, digest: Digest, request: UpstreamRequest): SourcesOfBlob
}

export interface SourcesOfBlob {
  /** Of the fill: who has the same key shares it. */
  readonly key: string
  /** Whether other repositories have this key, too: who joins the fill of one needs a right of its own. */
  readonly isShared: boolean
  readonly list: readonly BlobSource[]
}

/**
 * The order to try: for now the origin's own upstream.
 *
 * The key says who may share a fill. All repositories of an Outport primary may, once it has vouched for
 * each; those of a third party never do: each must have the bytes delivered to itself.
 */
export function createSources(client: (upstream: string) => UpstreamClient): BlobSources {
  return {
    of(origin, digest, request) {
      const { signal: _, ...rest } = request
      const upstream = client(origin.upstream)
      const isShared = upstream.entry.kind === 'primary'
      return {
        key: `${origin.upstream}!${isShared ? '' : origin.repository}!${digest}`,
        isShared,
        list: [upstream.openBlob(origin.repository, digest, rest)],
      }
    },
  }
}
