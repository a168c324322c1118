import type { Envelope } from '../trust/statement.ts'
import type { SentHeader } from './chain.ts'
import type { PreheatFact, RosterEdge, RuleFact } from './events.ts'
import type { LeaseRequest } from './lease.ts'

/** The paths of a primary's internal listener, which asks for an edge's certificate. */
export const internalPaths = {
  /** `?epoch=…&seq=…`: what comes after, without an end. */
  feed: '/feed',
  lease: '/lease',
  /** What clients pulled. */
  pulls: '/pulls',
  /** Behind it, a stream's name. */
  snapshot: '/snapshots/',
} as const

/** Which start of an edge asks: two that take each other's place are a copied identity. */
export const instanceHeader = 'outport-instance'

/**
 * One line of the feed (NDJSON): the list of trusted keys, first and whenever it changes; an event, whose body is
 * left out where the edge is not entitled to it; the signature over the last header of a batch; or a sign of life.
 */
export type FeedLine =
  | { readonly trust: Envelope }
  | (SentHeader & { readonly body?: string })
  | { readonly head: Envelope }
  | { readonly alive: true }

/**
 * What a request for the feed may ask to go on in (`Upgrade`): lines both ways, by which an edge asks for its leases
 * too. A primary that is too old to know it answers with the feed alone, and an edge that is does not ask.
 */
export const feedProtocol = 'outport-feed'

/** What an edge sends over such a feed. */
export interface FeedRequestLine {
  readonly lease: LeaseRequest
}

/** What it gets for that, between the lines of the feed. */
export type LeaseAnswerLine = { readonly nonce: string } & (
  | { readonly granted: Envelope }
  | { readonly refused: { readonly status: number; readonly message: string } }
)

/** The longest request for a lease. Bytes. */
export const maxLeaseBytes = 256 * 1024

/** How often a feed that has nothing to say shows that it lives. Milliseconds. */
export const aliveMs = 10_000

/** The longest line that is read; a body holds a name or two and a list of labels. Bytes. */
export const maxLineBytes = 1024 * 1024

/** What is signed of a stream's whole state: of all lines before this one. */
export interface SnapshotStatement {
  readonly stream: string
  readonly epoch: number
  /** When it was read, in epoch ms by the primary's clock. */
  readonly at: number
  /** The last event that the state holds. */
  readonly seq: number
  /** The chain's hash there, hex: a reader without a place of its own goes on from here. */
  readonly hash: string
  /** sha256 over the lines before, hex. */
  readonly digest: string
  /** sha256, hex, of the bodies that the state holds already, though they are numbered later. */
  readonly ahead: readonly string[]
}

/** By which each kind of line of a snapshot is known. */
const lineKeys = [
  'edge',
  'ruleFact',
  'rule',
  'rulesFollowed',
  'preheat',
  'project',
  'name',
  'tag',
  'manifest',
] as const

/**
 * Whether this version understands a line of a snapshot, or may pass it by.
 * @returns `newer`: it cannot take the snapshot
 */
export function lineReadabilityOf(line: SnapshotLine): 'known' | 'skip' | 'newer' {
  if (lineKeys.some((key) => Object.hasOwn(line, key))) return 'known'
  return (line as { readonly skippable?: unknown }).skippable === true ? 'skip' : 'newer'
}

/** What a snapshot's line says is there; what no line says is not. */
export type SnapshotLine =
  | { readonly edge: RosterEdge }
  | { readonly project: string; readonly public: boolean }
  | { readonly repository: number; readonly name: string }
  | {
      readonly repository: number
      readonly tag: string
      readonly digest: string
      /** Rules have not been followed up to this event, by which it moved; `next`: it has no number yet. */
      readonly unfollowed?: number | 'next'
    }
  | { readonly repository: number; readonly manifest: string }
  | { readonly ruleFact: RuleFact }
  | { readonly preheat: PreheatFact }
  /** Up to here rules have been followed. */
  | { readonly rulesFollowed: number }
  /** A rule brings this manifest. */
  | { readonly repository: number; readonly rule: number; readonly selected: string }
