import type { FillOutcome } from '../shared/fill/fill-options.ts'
import type { Logger } from '../shared/observability/log.ts'
import { isDigest } from '../shared/oci/digest.ts'
import type { CachedBlobs } from './cache/blobs.ts'
import type { DiskHealth } from './cache/disk-health.ts'
import type { EdgeOptions } from './config.ts'
import type { PieceLists } from './mirror/piece-lists.ts'
import type { EdgeMetrics } from './metrics.ts'
import type { Sources } from './sources/sources.ts'

/** How blobs are fetched, by the configuration. */
export function fillOptions({ fill, peer_wait }: EdgeOptions) {
  return {
    withheldBytes: fill.withheld,
    distantBytes: 2 * fill.segment,
    saveEveryBytes: fill.segment,
    openTimeoutMs: fill.open_wait,
    headersTimeoutMs: fill.no_progress,
    stallMs: fill.no_progress,
    patienceMs: peer_wait,
    tailBypassMs: fill.tail_wait,
    unowned: { ms: fill.unowned },
  }
}

/** Counts and logs what becomes of fills. */
export function observeFills(
  metrics: EdgeMetrics,
  {
    log,
    disk,
    blobs,
    sources,
    isPeer,
    pieceLists,
  }: {
    readonly log: Logger
    readonly disk: DiskHealth
    readonly blobs: CachedBlobs
    readonly sources: Sources
    readonly isPeer: (source: string) => boolean
    readonly pieceLists: PieceLists
  },
) {
  return {
    joined: () => metrics.coalesced(),
    sourceLied: (source: string, digest: string) => {
      sources.lied(source)
      log.error({ upstream: source, digest }, 'an upstream sent other bytes than the digest says')
    },
    pieceWrong: (source: string | undefined) =>
      metrics.wrongPiece(source === undefined ? 'several' : isPeer(source) ? 'peers' : source),
    piecesMisled(digest: string) {
      if (isDigest(digest)) pieceLists.distrust(digest)
      log.error(
        { digest },
        'the list of the pieces of a blob is wrong: it is proved whole from now on',
      )
    },
    diskFailed: disk.failed,
    ended: ({ kind, digest, size, receivedBytes, ms, error }: FillOutcome) => {
      if (kind === 'stored' && size !== undefined && isDigest(digest))
        blobs.fetched(digest, { bytes: size, ms })
      log.info(
        { digest, bytes: size, receivedBytes, ms: Math.round(ms), reason: kind, err: error },
        'fill done',
      )
    },
  }
}
