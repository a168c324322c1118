import { randomBytes } from 'node:crypto'
import type { Digest } from '../shared/oci/digest.ts'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import type { Upstream } from '../test/kit/upstream.ts'
import { expectedOf, type Expected } from './pulls.ts'
import type { Figure } from './report.ts'

const mib = 2 ** 20
/** At the upstreams. */
export const repository = 'bench/app'
export const coldBytes = 32 * mib

/** An upstream, and the way to it through the edge. */
export interface ColdStand {
  readonly upstream: Upstream
  /** Who has the same besides, and is asked after it. */
  readonly second?: Upstream
  /** The upstream's id at the edge. */
  readonly id: string
  readonly edge: URL
}

/** A blob that the edge has never seen. */
export interface ColdBlob {
  readonly digest: Digest
  readonly expected: Expected
  /** At the edge. */
  readonly path: string
}

/** Puts a blob of random bytes there, of some whole segments. */
export function addCold(
  { upstream, second, id }: Omit<ColdStand, 'edge'>,
  bytes = coldBytes,
): ColdBlob {
  const blob = randomBytes(bytes)
  const digest = upstream.addBlob(repository, blob)
  second?.addBlob(repository, blob)
  const path = blobPath(parseRepositoryName(`${id}/${repository}`), digest)
  return { digest, expected: expectedOf(blob), path }
}

/** Takes it away again: all these blobs lie in memory. */
export function removeCold(
  { upstream, second }: Pick<ColdStand, 'upstream' | 'second'>,
  { digest }: ColdBlob,
): void {
  upstream.remove(repository, digest)
  second?.remove(repository, digest)
}

/** The judged MiB that an upstream sent again, of several times. */
export function againFigure(
  figure: Omit<Figure, 'value' | 'lowest' | 'highest' | 'most'>,
  sentMib: readonly number[],
): Figure {
  const [lowest, highest] = [Math.min(...sentMib), Math.max(...sentMib)]
  return { ...figure, value: highest, lowest, highest, most: true }
}

/** MiB that were sent beyond the blob's, by all who have it together. */
export function sentAgain(
  { upstream, second }: Pick<ColdStand, 'upstream' | 'second'>,
  { digest, expected }: ColdBlob,
): number {
  const sent = upstream.delivered(digest).bytes + (second?.delivered(digest).bytes ?? 0)
  return Math.max(sent - expected.bytes, 0) / mib
}

/** The judged count of clients that failed. @param whose for the reader, `of 30 clients` */
export function errorFigure(
  name: string,
  results: readonly PromiseSettledResult<unknown>[],
  whose: string,
): Figure {
  const failed = results.filter((each) => each.status === 'rejected')
  const [reason = ''] = failed.map((each) => String(each.reason).split('\r\n')[0])
  return {
    case: name,
    measure: 'client errors',
    value: failed.length,
    floor: 0,
    aim: 0,
    most: true,
    notes: failed.length === 0 ? whose : `${whose}; ${reason}`,
  }
}
