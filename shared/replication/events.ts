import { randomBytes } from 'node:crypto'
import type { Digest } from '../oci/digest.ts'

/** The version of the vocabulary below. A reader that meets a newer one stops, unless it may pass the event by. */
const eventVersion = 1

/** `system`, or one project's stream: who may read an event's body. */
export type EventStream = 'system' | `project:${number}`

/** The stream of this name, or undefined when it is none. */
export function streamOfText(text: string): EventStream | undefined {
  return text === 'system' || /^project:[1-9]\d{0,9}$/.test(text)
    ? (text as EventStream)
    : undefined
}

/**
 * The facts that an edge, or another primary's cache, must know. Each is written to the outbox in the
 * fact's own transaction. Ids, never names, bind a fact to its project and repository; names ride along.
 */
export type EventFact =
  | {
      readonly type: 'project'
      readonly projectId: number
      readonly name: string
      readonly public: boolean
    }
  | { readonly type: 'project-deleted'; readonly projectId: number; readonly name: string }
  | {
      readonly type: 'repository'
      readonly projectId: number
      readonly repositoryId: number
      readonly name: string
    }
  | {
      readonly type: 'repository-deleted'
      readonly projectId: number
      readonly repositoryId: number
      readonly name: string
    }
  | {
      readonly type: 'manifest'
      readonly projectId: number
      readonly repositoryId: number
      readonly digest: Digest
      readonly mediaType: string
      readonly size: number
      readonly subject?: Digest
    }
  | {
      readonly type: 'manifest-deleted'
      readonly projectId: number
      readonly repositoryId: number
      readonly digest: Digest
    }
  | {
      readonly type: 'tag'
      readonly projectId: number
      readonly repositoryId: number
      readonly tag: string
      readonly digest: Digest
    }
  | {
      readonly type: 'tag-deleted'
      readonly projectId: number
      readonly repositoryId: number
      readonly tag: string
    }
  | {
      readonly type: 'link-deleted'
      readonly projectId: number
      readonly repositoryId: number
      readonly digest: Digest
    }
  | ({ readonly type: 'piece-list'; readonly projectId: number } & PieceListFact)
  | {
      /** Made, or renamed. */
      readonly type: 'label'
      readonly labelId: number
      /** Absent: global. */
      readonly projectId?: number
      readonly name: string
    }
  /** Nothing bears it any more: no `manifest-labels` says so of each manifest that did. */
  | { readonly type: 'label-deleted'; readonly labelId: number; readonly projectId?: number }
  | {
      /** Which labels a manifest bears now, by their ids, in order: all of them, after each change. */
      readonly type: 'manifest-labels'
      readonly projectId: number
      readonly repositoryId: number
      readonly digest: Digest
      readonly labels: readonly number[]
    }
  | {
      readonly type: 'member'
      readonly projectId: number
      readonly userId: number
      readonly roleId: number
    }
  | { readonly type: 'member-deleted'; readonly projectId: number; readonly userId: number }
  | { readonly type: 'user'; readonly userId: number; readonly admin: boolean }
  | { readonly type: 'user-deleted'; readonly userId: number }
  | {
      readonly type: 'robot'
      readonly robotId: number
      readonly projectId?: number
      readonly disabled: boolean
    }
  | { readonly type: 'robot-deleted'; readonly robotId: number; readonly projectId?: number }
  | ({ readonly type: 'edge' } & RosterEdge)
  | { readonly type: 'edge-deleted'; readonly edgeId: string }
  | ({ readonly type: 'rule' } & RuleFact)
  | { readonly type: 'rule-deleted'; readonly ruleId: number }
  | {
      /** A rule brings this manifest, and all that it needs, to its edges, until `unselected`. */
      readonly type: 'selected' | 'unselected'
      readonly projectId: number
      readonly repositoryId: number
      readonly ruleId: number
      readonly digest: Digest
    }
  | ({ readonly type: 'preheat' } & PreheatFact)
  /** It was stopped: nothing more is fetched for it, and nothing pinned. */
  | { readonly type: 'preheat-ended'; readonly projectId: number; readonly preheatId: number }
  /** What rules make of all tags that moved up to this event stands in the log before this one. */
  | { readonly type: 'rules-followed'; readonly seq: number }
  | {
      readonly type: 'key'
      readonly keyId: string
      readonly purpose: string
      readonly state: string
    }

/** An edge as the roster has it: by what it is selected, and what it may read. */
export interface RosterEdge {
  readonly edgeId: string
  readonly name: string
  readonly site: string
  readonly region: string
  readonly labels: Readonly<Record<string, string>>
  /** `*`, or the ids of the projects that it may read. */
  readonly scope: '*' | readonly number[]
  readonly suspended: boolean
  /** It leaves: nobody is sent there any more. Absent: it does not. */
  readonly draining?: boolean
  /** Where other edges of its site reach it; absent: they do not. */
  readonly peerUrl?: string
}

/** Whether clients, and other edges, may be sent to an edge. */
export function takesRequests({ suspended, draining }: RosterEdge): boolean {
  return !suspended && draining !== true
}

/** A replication rule as its edges know it: they see themselves whether it selects them. */
export interface RuleFact {
  readonly ruleId: number
  readonly name: string
  /** A rule that is not does nothing, and what it brought is no longer pinned. */
  readonly enabled: boolean
  readonly selector: EdgeSelector
  /** When a tag that it selects is answered: once its manifest is here, or once all its blobs are. */
  readonly serve: 'latest' | 'complete'
  /** `os/architecture[/variant]`; empty: all. */
  readonly platforms: readonly string[]
  /** Which tags may turn out to be this rule's when they move: none is answered before that is known. Absent: none. */
  readonly guards?: TagGuard
}

/** Tags that a rule may select, as far as names tell. */
export interface TagGuard {
  /** Patterns of `project/repository`; all must match. */
  readonly repositories: readonly string[]
  /** Patterns of tags; all must match. */
  readonly tags: readonly string[]
}

/** A blob that a project has can be proved piece by piece. */
export interface PieceListFact {
  /** Of the blob. */
  readonly digest: Digest
  /** The digest of its list of pieces, which every repository has that has the blob. */
  readonly list: Digest
}

/** An image that some edges are to hold by a deadline, and until then. */
export interface PreheatFact {
  readonly preheatId: number
  readonly projectId: number
  readonly repositoryId: number
  readonly digest: Digest
  /** `os/architecture[/variant]`; empty: all. */
  readonly platforms: readonly string[]
  /** Ids of edges. */
  readonly edges: readonly string[]
  /** Epoch ms by the primary's clock. */
  readonly until: number
}

/** Which edges: those that every given condition selects. */
export interface EdgeSelector {
  /** Patterns, as Go's doublestar has them; one must match. Absent: any. */
  readonly names?: readonly string[]
  readonly sites?: readonly string[]
  readonly regions?: readonly string[]
  /** All of these must be there, with a value that the pattern matches. */
  readonly labels?: Readonly<Record<string, string>>
}

/** One event's body as it is stored, hashed and sent. */
export interface EventBody {
  readonly version: number
  /** When the fact was written, RFC 3339. */
  readonly at: string
  /** 16 random bytes, hex, so that a withheld body's hash cannot be guessed. */
  readonly salt: string
  /** A reader that does not know the fact may go on without it. Signed, as all of the body is. */
  readonly skippable?: boolean
  readonly fact: EventFact
}

/** All facts of this vocabulary. */
const knownFacts: Readonly<Record<EventFact['type'], true>> = {
  project: true,
  'project-deleted': true,
  repository: true,
  'repository-deleted': true,
  manifest: true,
  'manifest-deleted': true,
  tag: true,
  'tag-deleted': true,
  'link-deleted': true,
  'piece-list': true,
  label: true,
  'label-deleted': true,
  'manifest-labels': true,
  member: true,
  'member-deleted': true,
  user: true,
  'user-deleted': true,
  robot: true,
  'robot-deleted': true,
  edge: true,
  'edge-deleted': true,
  rule: true,
  'rule-deleted': true,
  selected: true,
  unselected: true,
  preheat: true,
  'preheat-ended': true,
  'rules-followed': true,
  key: true,
}
/** Facts that an edge of an older version may do without. */
const skippableFacts: ReadonlySet<EventFact['type']> = new Set(['piece-list'])
/** What takes something from somebody is never passed by, whatever is signed of it (DESIGN §4). */
const neverSkipped = /block|revo|verdict|visib|member|right|trust|key/

/**
 * Whether this version understands an event, or may pass it by.
 * @returns `newer`: it has to stop there
 */
export function readabilityOf({ version, skippable, fact }: EventBody): 'known' | 'skip' | 'newer' {
  const type: unknown = (fact as Partial<EventFact> | undefined)?.type
  if (typeof type !== 'string') return 'newer'
  // A fact that is known by its name has to be taken whole.
  if (Object.hasOwn(knownFacts, type)) return version <= eventVersion ? 'known' : 'newer'
  return skippable === true && !neverSkipped.test(type) ? 'skip' : 'newer'
}

/** Wraps a fact for the outbox. */
export function createEventBody(fact: EventFact, at: Date): EventBody {
  return {
    version: eventVersion,
    at: at.toISOString(),
    salt: randomBytes(16).toString('hex'),
    ...(skippableFacts.has(fact.type) && { skippable: true }),
    fact,
  }
}

/** The project of a stream; undefined for `system`. */
export function projectOfStream(stream: EventStream): number | undefined {
  return stream === 'system' ? undefined : Number(stream.slice('project:'.length))
}

/** Whether a project is in an edge's scope. */
export function covers(scope: RosterEdge['scope'], projectId: number): boolean {
  return scope === '*' || scope.includes(projectId)
}

/** Whether an edge of this scope may read a stream's bodies. */
export function isEntitled(scope: RosterEdge['scope'], stream: EventStream): boolean {
  const project = projectOfStream(stream)
  return project === undefined || covers(scope, project)
}

/** The stream whose readers are entitled to a fact's body. */
export function streamOf(fact: EventFact): EventStream {
  return 'projectId' in fact && fact.projectId !== undefined
    ? `project:${fact.projectId}`
    : 'system'
}
