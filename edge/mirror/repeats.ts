import type { IncomingMessage } from 'node:http'
import { clientAddressOf } from '../../shared/http/forwarded.ts'
import { createLru } from '../../shared/memory/lru.ts'
import type { Digest } from '../../shared/oci/digest.ts'

/**
 * Who has got bytes of a blob and soon asks for the same again: clients keep what is right, so that the file behind it
 * may be wrong though nothing about it says so. Machines behind one address are one client here.
 */
export interface Repeats {
  /** Whether the same was sent to the same client not long ago. */
  isAgain(request: IncomingMessage, digest: Digest): boolean
  /** All that was asked for was sent. */
  sent(request: IncomingMessage, digest: Digest): void
}

/** As long as clients try again by themselves, and a person after them. */
const rememberedMs = 600_000
const remembered = 10_000

export function createRepeats(): Repeats {
  const last = createLru<string, true>({ max: remembered, ttl: rememberedMs })
  // Parts of one blob, which containerd fetches one by one, are no repetition.
  const keyOf = (request: IncomingMessage, digest: Digest): string =>
    `${clientAddressOf(request)} ${digest} ${request.headers.range ?? ''}`
  return {
    isAgain: (request, digest) => last.has(keyOf(request, digest)),
    sent: (request, digest) => void last.set(keyOf(request, digest), true),
  }
}
