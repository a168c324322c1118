import assert from 'node:assert/strict'
import { waitFor } from './clock.ts'
import { bytesOf, contentOf, type Content } from './images.ts'
import type { TestUp } from './up.ts'
import type { Upstream } from './upstream.ts'

const mebibyte = 1024 * 1024

/**
 * What a kill of the edge may have the upstream send again: a segment, and what was written since the fill
 * last saved its progress.
 */
export const againPerKill = (8 + 8) * mebibyte

/** A blob that only the upstream has. */
export interface ColdBlob {
  readonly blob: Content
  /** At the edge. */
  readonly path: string
}

/** Adds a blob to the upstream that `up` has in its table as `origin`. */
export function addColdBlob(upstream: Upstream, seed: string, sizeBytes: number): ColdBlob {
  const blob = contentOf(bytesOf(seed, sizeBytes))
  upstream.addBlob('kills/app', blob.bytes)
  return { blob, path: `/v2/origin/kills/app/blobs/${blob.digest}` }
}

/**
 * Pulls a blob through the edge, whole and from its last third on, until the upstream has delivered
 * `afterBytes` more of it; calls `kill` then, and waits for both answers to be cut.
 */
export async function pullUntilKilled(
  up: TestUp,
  upstream: Upstream,
  { blob, path }: ColdBlob,
  { afterBytes, kill }: { readonly afterBytes: number; readonly kill: () => unknown },
): Promise<void> {
  const start = Math.floor((blob.bytes.length * 2) / 3)
  const client = up.client('edge')
  const delivered = () => upstream.delivered(blob.digest).bytes
  const before = delivered()
  // However late the kill comes, no pull may be over: nobody gets the last byte before it.
  const release = upstream.fault({ digest: blob.digest }, { stallAt: blob.bytes.length - 1 })
  const isCut = (headers: Readonly<Record<string, string>>): Promise<boolean> =>
    client.request('GET', path, { headers }).then(
      () => false,
      () => true,
    )
  const cut = Promise.all([isCut({}), isCut({ Range: `bytes=${start}-` })])
  await waitFor('the upstream to deliver', () => delivered() - before >= afterBytes, {
    timeoutMs: 60_000,
  })
  await kill()
  assert.deepEqual(await cut, [true, true], 'a pull was over before the kill')
  release()
  await waitFor('the upstream to see its connections end', () => upstream.connections() === 0)
}

/** Pulls a blob through the edge, and a range of it, and compares every byte. */
export async function assertPulls(up: TestUp, { blob, path }: ColdBlob): Promise<void> {
  const client = up.client('edge')
  const whole = await client.request('GET', path)
  assert.equal(whole.status, 200)
  assert.ok(whole.body.equals(blob.bytes), `other bytes of ${blob.digest}`)
  const start = Math.floor(blob.bytes.length / 2)
  const part = await client.request('GET', path, { headers: { Range: `bytes=${start}-` } })
  assert.equal(part.status, 206)
  assert.ok(part.body.equals(blob.bytes.subarray(start)), `other bytes of a range`)
}
