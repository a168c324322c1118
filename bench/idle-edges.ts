import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { openLink, type PrimaryLink } from '../edge/replication/link.ts'
import type { LogPlace } from '../shared/replication/chain.ts'
import { parseJoinToken, proveKey, type JoinAnswer } from '../shared/replication/enrolment.ts'
import { leaseMs, type Lease, type LeaseRequest } from '../shared/replication/lease.ts'
import { callApi } from '../test/kit/api.ts'
import { emptyReport } from '../test/kit/follow-server.ts'
import type { RegistryClient } from '../test/kit/registry-client.ts'
import { makeCheapKeys } from './cheap-keys.ts'

/** An edge that follows the log and asks for its lease, and does nothing else with either. */
export interface IdleEdge {
  /** The last event that it has heard of; undefined while it is not fed. */
  readonly seq: number | undefined
  /** When it heard of that, by `performance.now()`. */
  readonly heardAt: number
  stop(): Promise<void>
}

export interface EnrolledIdleEdge {
  readonly id: string
  readonly certificate: string
  readonly key: string
  readonly ca: string
}

/** Enrols edges by join tokens, at a primary's own API. */
export async function enrol(
  primary: RegistryClient,
  count: number,
  say: (line: string) => void,
): Promise<readonly EnrolledIdleEdge[]> {
  const post = async (path: string, body: object): Promise<unknown> =>
    (await callApi(primary, 'POST', path, body)).json()
  const edges: EnrolledIdleEdge[] = []
  for (const [number, { privateKey, publicKey: own }] of makeCheapKeys(count).entries()) {
    if (number % 250 === 0) say(`${number} of ${count} edges enrolled`)
    const name = `idle-${number}`
    const key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
    const publicKey = own.export({ type: 'spki', format: 'pem' }).toString()
    const made = await post('/edges/tokens', { name, scope: '*' })
    const { id, secret } = parseJoinToken((made as { readonly token: string }).token)
    const proof = proveKey({ tokenId: id, name, publicKey }, privateKey)
    const answer = await post('/edges/join', { token: `${id}.${secret}`, name, publicKey, proof })
    const { edge, certificate, ca } = answer as JoinAnswer
    edges.push({ id: edge.id, certificate, key, ca })
  }
  return edges
}

/** As an edge's own, when it is cut off: at once, then ever later. */
const longestPauseMs = 30_000

/** Starts one; it connects again for as long as it runs. */
export function startIdleEdge({ certificate, key, ca }: EnrolledIdleEdge, url: URL): IdleEdge {
  const stopping = new AbortController()
  const { signal } = stopping
  const state = { seq: undefined as number | undefined, heardAt: 0 }
  const instance = randomUUID()
  const follow = async (link: PrimaryLink, onFed: () => void): Promise<never> => {
    const { head } = await askForLease(link, { epoch: 1, seq: 0 })
    const feed = await link.feed(head, signal)
    state.seq = head.seq
    onFed()
    try {
      const renewing = renew(link, () => ({ epoch: head.epoch, seq: state.seq ?? 0 }), signal)
      renewing.catch(() => feed.cancel())
      for await (const line of feed.lines()) {
        if (!('seq' in line)) continue
        state.seq = line.seq
        state.heardAt = performance.now()
      }
      throw new Error('the feed ended')
    } finally {
      feed.cancel()
    }
  }
  const running = (async () => {
    for (let failures = 0; !signal.aborted; failures++) {
      const link = openLink({
        url,
        identity: { key, certificate, ca: [ca] },
        instance,
        chooseProxy: () => undefined,
        connectTimeoutMs: 10_000,
      })
      await follow(link, () => (failures = 0)).catch(() => undefined)
      state.seq = undefined
      await link.close()
      if (failures === 0) continue
      const most = Math.min(longestPauseMs, 250 * 2 ** Math.min(failures, 10))
      await delay(Math.random() * most, undefined, { signal }).catch(() => undefined)
    }
  })()
  return {
    get seq() {
      return state.seq
    },
    get heardAt() {
      return state.heardAt
    },
    async stop() {
      stopping.abort()
      await running
    },
  }
}

async function renew(
  link: PrimaryLink,
  place: () => LogPlace,
  signal: AbortSignal,
): Promise<never> {
  // Not all of them at once.
  await delay(Math.random() * (leaseMs / 3), undefined, { signal })
  for (;;) {
    await askForLease(link, place())
    await delay(leaseMs / 3, undefined, { signal })
  }
}

async function askForLease(link: PrimaryLink, applied: LogPlace): Promise<Lease> {
  const request: LeaseRequest = {
    nonce: randomBytes(16).toString('base64url'),
    applied,
    heldSeq: applied.seq,
    waitingBytes: 0,
    report: { ...emptyReport, clock: Date.now() },
  }
  const envelope = (await link.lease(request)) as { readonly payload: string }
  return JSON.parse(Buffer.from(envelope.payload, 'base64').toString('utf8')) as Lease
}
