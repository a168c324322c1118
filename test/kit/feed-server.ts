import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { json } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { createPublicKey } from 'node:crypto'
import { mayUpgrade, responseToUpgrade, switchProtocols } from '../../shared/http/upgrade.ts'
import { headerHash, type LogHead } from '../../shared/replication/chain.ts'
import type { RenewAnswer, RenewRequest } from '../../shared/replication/enrolment.ts'
import {
  createEventBody,
  streamOf,
  type EventBody,
  type EventFact,
  type EventStream,
} from '../../shared/replication/events.ts'
import {
  feedProtocol,
  internalPaths,
  maxLeaseBytes,
  type FeedLine,
  type FeedRequestLine,
  type LeaseAnswerLine,
  type SnapshotLine,
} from '../../shared/replication/feed.ts'
import { leaseMs, type Lease, type LeaseRequest } from '../../shared/replication/lease.ts'
import { linesOf } from '../../shared/stream/lines.ts'
import {
  issueEdgeCertificate,
  issueServerCertificate,
  type PemPair,
} from '../../shared/trust/pki.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import type { TrustList } from '../../shared/trust/trust-list.ts'
import type { PrimaryAnswer } from '../../edge/access/token-relay.ts'
import { createTestRoot, signTrustList, type TestRoot } from './join-server.ts'
import { createLogKey, type LogKey } from './log-keys.ts'

/** What a primary says on its internal listener, over real connections, and lies about as a test wants. */
export interface FeedServer {
  readonly root: TestRoot
  readonly logKey: LogKey
  readonly head: LogHead
  /** Requests, by their paths without a query. */
  readonly requests: readonly string[]
  readonly leases: readonly LeaseRequest[]
  readonly ask: (path: string) => Promise<PrimaryAnswer>
  readonly post: (path: string, body: object) => Promise<PrimaryAnswer>
  /** Numbers facts as one batch and tells whoever listens. */
  append(...facts: readonly EventFact[]): void
  /** The same of bodies as they stand there, which may be no facts of this version. */
  appendBodies(...bodies: readonly string[]): void
  /** What a stream's snapshot says, besides where the log is. */
  setState(stream: EventStream, lines: readonly SnapshotLine[]): void
  /** The streams that leases list. */
  setStreams(streams: readonly EventStream[]): void
  /** Lines that leave are given to this first; undefined lets them pass. */
  alterFeed(change: ((line: FeedLine) => readonly FeedLine[]) | undefined): void
  alterLease(change: ((lease: Lease) => object) | undefined): void
  alterSnapshot(change: ((lines: readonly string[]) => readonly string[]) | undefined): void
  alterTrust(change: ((list: TrustList) => Envelope) | undefined): void
  /** Has leases that are asked for over the feed answered so; `silence`: not at all. */
  answerFeedLeases(answer: FeedLeaseAnswer): void
  /** It is an older one from here on: feeds are feeds alone. */
  beOlder(): void
  /** Has the log's key sign another epoch, whatever the root says. */
  setEpoch(epoch: number): void
  /** Ends the feeds that are open; new ones may come. */
  cut(): void
}

export type FeedLeaseAnswer =
  'lease' | 'silence' | Extract<LeaseAnswerLine, { readonly refused: unknown }>['refused']

/** Starts one that ends with the test. */
export async function startFeedServer(
  t: Pick<TestContext, 'after'>,
  ca: PemPair,
): Promise<FeedServer> {
  const now = new Date()
  const names = { dnsNames: ['localhost'], ipAddresses: ['127.0.0.1'] }
  const own = await issueServerCertificate(ca, { names, now })
  const root = createTestRoot()
  const logKey = createLogKey()
  const requests: string[] = []
  const leases: LeaseRequest[] = []
  const lines: FeedLine[] = []
  const feeds = new Set<{ readonly stream: Writable; sent: number }>()
  const states = new Map<EventStream, readonly SnapshotLine[]>([['system', []]])
  let feedLeases: FeedLeaseAnswer = 'lease'
  let isOlder = false
  let streams: readonly EventStream[] = ['system']
  let head: LogHead = { epoch: 1, seq: 0, hash: Buffer.alloc(32) }
  let alterFeed: ((line: FeedLine) => readonly FeedLine[]) | undefined
  let alterLease: ((lease: Lease) => object) | undefined
  let alterSnapshot: ((lines: readonly string[]) => readonly string[]) | undefined
  let alterTrust: ((list: TrustList) => Envelope) | undefined

  const list = (): TrustList => ({
    version: 1,
    issuer: 'test',
    epoch: 1,
    root: root.trusted,
    log: [{ id: logKey.key.kid, jwk: publicJwkOf(logKey) }],
    ca: [ca.cert],
  })
  const trust = (): Envelope => alterTrust?.(list()) ?? signTrustList(root, [ca.cert], list())
  const send = (stream: Writable, line: FeedLine): void => {
    for (const each of alterFeed?.(line) ?? [line]) stream.write(`${JSON.stringify(each)}\n`)
  }
  const pump = (): void => {
    for (const feed of feeds)
      for (; feed.sent < lines.length; feed.sent++) {
        const line = lines[feed.sent]
        if (line !== undefined) send(feed.stream, line)
      }
  }
  /** Where the lines behind an event begin. */
  const lineAfter = (seq: number): number => {
    const at = lines.findIndex((line) => 'seq' in line && line.seq > seq)
    return at === -1 ? lines.length : at
  }
  const appendBodies = (...bodies: readonly string[]): void => {
    for (const body of bodies) {
      const { fact } = JSON.parse(body) as EventBody
      const bodyHash = createHash('sha256').update(body).digest()
      const { epoch, hash: previous } = head
      const header = { epoch, seq: head.seq + 1, stream: streamOf(fact), bodyHash, previous }
      head = { epoch, seq: header.seq, hash: headerHash(header) }
      const { seq, stream } = header
      lines.push({ seq, stream, bodyHash: bodyHash.toString('hex'), body })
    }
    lines.push({ head: logKey.sign(head) })
    pump()
  }
  const snapshotOf = (stream: EventStream): string => {
    const rows = (states.get(stream) ?? []).map((line) => `${JSON.stringify(line)}\n`)
    const statement = {
      stream,
      epoch: head.epoch,
      at: Date.now(),
      seq: head.seq,
      hash: head.hash.toString('hex'),
      digest: createHash('sha256').update(rows.join('')).digest('hex'),
      ahead: [],
    }
    const signed = signStatement(statementTypes.snapshot, statement, logKey.key)
    return [...(alterSnapshot?.(rows) ?? rows), `${JSON.stringify({ signed })}\n`].join('')
  }

  const grant = (asked: LeaseRequest): Envelope => {
    leases.push(asked)
    const lease: Lease = {
      nonce: asked.nonce,
      edgeId: 'one',
      head: { epoch: head.epoch, seq: head.seq },
      streams,
      leaseMs,
    }
    return signStatement(statementTypes.lease, alterLease?.(lease) ?? lease, logKey.key)
  }
  const answerLeases = async (socket: Socket): Promise<void> => {
    for await (const text of linesOf(socket, maxLeaseBytes)) {
      const { lease } = JSON.parse(text) as FeedRequestLine
      const { nonce } = lease
      if (feedLeases === 'silence') {
        leases.push(lease)
        continue
      }
      const answer: LeaseAnswerLine =
        feedLeases === 'lease' ? { nonce, granted: grant(lease) } : { nonce, refused: feedLeases }
      socket.write(`${JSON.stringify(answer)}\n`)
    }
  }
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const url = new URL(request.url ?? '/', 'https://localhost')
    requests.push(url.pathname)
    if (url.pathname === internalPaths.feed) {
      const isTwoWay = !isOlder && mayUpgrade(response, feedProtocol)
      if (isTwoWay) {
        switchProtocols(response, feedProtocol)
        answerLeases(request.socket).catch(() => request.socket.destroy())
      } else response.writeHead(200)
      const stream = isTwoWay ? request.socket : response
      send(stream, { trust: trust() })
      const feed = { stream, sent: lineAfter(Number(url.searchParams.get('seq'))) }
      feeds.add(feed)
      stream.on('close', () => feeds.delete(feed))
      pump()
    } else if (url.pathname === internalPaths.lease) {
      void (async () => {
        response.end(JSON.stringify(grant((await json(request)) as LeaseRequest)))
      })()
    } else
      response.end(snapshotOf(url.pathname.slice(internalPaths.snapshot.length) as EventStream))
  }
  const server = createServer(
    { cert: own.cert, key: own.key, ca: ca.cert, requestCert: true, rejectUnauthorized: true },
    answer,
  )
  const upgraded = new Set<Socket>()
  server.on('upgrade', (request: IncomingMessage, socket: Socket, first: Buffer) => {
    upgraded.add(socket)
    socket.on('close', () => upgraded.delete(socket))
    answer(request, responseToUpgrade(request, socket, first))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    server.closeAllConnections()
    for (const socket of upgraded) socket.destroy()
    server.close()
    await once(server, 'close')
  })
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`

  return {
    root,
    logKey,
    get head() {
      return head
    },
    requests,
    leases,
    ask: async () => ({
      status: 200,
      headers: {},
      body: JSON.stringify({ root: root.trusted, list: trust(), internal_url: url }),
    }),
    post: async (_path, body) => {
      const { id, publicKey } = body as RenewRequest
      const certificate = issueEdgeCertificate(ca, { edgeId: id, publicKey, now })
      const edge = { id, name: id, site: '', region: '', labels: {} }
      const answer: RenewAnswer = {
        edge,
        certificate,
        ca: ca.cert,
        root: root.trusted,
        trust: signTrustList(root, [ca.cert], list()),
      }
      return { status: 201, headers: {}, body: JSON.stringify(answer) }
    },
    append(...facts) {
      appendBodies(...facts.map((fact) => JSON.stringify(createEventBody(fact, new Date()))))
    },
    appendBodies,
    setState: (stream, state) => void states.set(stream, state),
    setStreams(listed) {
      streams = listed
    },
    alterFeed(change) {
      alterFeed = change
    },
    alterLease(change) {
      alterLease = change
    },
    alterSnapshot(change) {
      alterSnapshot = change
    },
    alterTrust(change) {
      alterTrust = change
    },
    answerFeedLeases(answer) {
      feedLeases = answer
    },
    beOlder() {
      isOlder = true
    },
    setEpoch(epoch) {
      head = { ...head, epoch }
    },
    cut() {
      for (const { stream } of feeds) stream.destroy()
    },
  }
}

function publicJwkOf({ key, keyOf }: LogKey) {
  const publicKey = keyOf(key.kid) ?? createPublicKey(key.privateKey)
  return publicKey.export({ format: 'jwk' })
}
