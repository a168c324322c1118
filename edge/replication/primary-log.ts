import { join } from 'node:path'
import { isThere } from '../../shared/files/folder.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Logger } from '../../shared/observability/log.ts'
import type { AskPrimary, PrimaryAnswer } from '../access/token-relay.ts'
import { startFollowing, type FollowDeps, type Following } from './follow.ts'
import { createFreshness, type Freshness } from './freshness.ts'
import { createIdentity, type Identity, type OwnIdentity } from './identity.ts'
import { createStated, type Stated } from './stated.ts'
import type { Trouble } from './trouble.ts'
import { createWanted, type Wanted, type WantedDeps, type WantedProgress } from './wanted.ts'
import { openOrRemake } from '../cache/open.ts'
import { openStatements, type Statements } from '../cache/statements.ts'

/** What the primary's log says, as far as this edge has recorded it, and how it goes on. */
export interface PrimaryLog {
  readonly statements: Statements
  readonly freshness: Freshness
  readonly stated: Stated
  isConnected(): boolean
  /** Why it cannot be answered for the primary: nothing is known yet, or the primary refuses this edge. */
  failure(): string | undefined
  /** Has the primary told how this edge is, soon. */
  report(): void
  /** By what this edge proves who it is, once it is known. */
  identity(): OwnIdentity | undefined
  /** Begins to fetch what rules bring; resolves when all that was recorded of it is known. */
  bring(deps: BringDeps): Promise<void>
  /** Something that was to stay went. */
  lost(): void
  /** All that rules bring. */
  roots(): readonly Digest[]
  progress(): WantedProgress
  /** Begins to follow. */
  follow(deps: FollowLogDeps): void
  close(): Promise<void>
}

export type BringDeps = Omit<WantedDeps, 'upstream' | 'statements' | 'onProgress' | 'onFailed'>

export interface FollowLogDeps extends Pick<
  FollowDeps,
  'dial' | 'progress' | 'onIdentity' | 'onLink'
> {
  /** Told when the roster may say something else. */
  readonly onRoster: () => void
  /** Told that the keys by which tokens are verified may be others. */
  readonly onTokenKeys?: () => void
  readonly edge: { readonly id: string; readonly secret: string }
  readonly ask: AskPrimary
  readonly post: (path: string, body: object) => Promise<PrimaryAnswer>
}

export interface PrimaryLogOptions {
  /** The edge's own folder. */
  readonly folder: string
  /** The primary's id in the table of upstreams. */
  readonly upstream: string
  /** Milliseconds for which what a log that began anew does not list any more is remembered. */
  readonly unlistedMs: number
  readonly trouble: Trouble
  readonly log: Logger
}

/** Opens what is recorded; all of it is fetched again if that is damaged. */
export async function openPrimaryLog({
  folder,
  upstream,
  unlistedMs,
  trouble,
  log,
}: PrimaryLogOptions): Promise<PrimaryLog> {
  let wanted: Wanted | undefined
  const statements = await openOrRemake(join(folder, 'log'), {
    open: (path) =>
      openStatements(path, {
        unlistedMs,
        wantsWhole: (rule) => wanted?.wantsWhole(rule) ?? false,
      }),
    onDamaged: (err) =>
      log.warn({ err }, "the record of the primary's log is damaged: it is fetched again"),
  })
  const freshness = createFreshness({ wall: Date.now, steady: () => performance.now() })
  let following: Following | undefined
  let identity: Identity | undefined
  let own: OwnIdentity | undefined
  return {
    statements,
    freshness,
    stated: createStated({
      upstream,
      statements,
      freshness,
      keyOf: (kid) => identity?.logKey(kid),
      isIncomplete: (repositoryId, digest) => wanted?.isIncomplete(repositoryId, digest) ?? false,
      isGuarded: (...tag) => wanted?.isGuarded(...tag) ?? false,
      now: Date.now,
    }),
    isConnected: () => following?.isConnected() === true,
    failure() {
      if (following === undefined) return undefined
      const isNew = statements.cursor === undefined
      return (
        following.refusal() ?? (isNew ? 'the primary has not told yet what there is' : undefined)
      )
    },
    report: () => following?.report(),
    identity: () => own,
    async bring(deps) {
      wanted = createWanted({
        ...deps,
        upstream,
        statements,
        onProgress: () => following?.report(),
        // Whether it lasts, its failures say.
        onFailed: (err) => trouble.note('rules', err, { isOver: true }),
      })
      await wanted.readAgain()
    },
    lost: () => wanted?.lost(),
    roots: () => wanted?.roots() ?? [],
    progress: () =>
      wanted?.progress() ?? {
        heldSeq: statements.cursor?.seq ?? 0,
        waitingBytes: 0,
        failures: [],
        preheats: [],
        isWhole: false,
      },
    follow({ edge, post, onRoster, onTokenKeys, onIdentity, ...deps }) {
      onRoster()
      identity = createIdentity({
        folder: identityFolder(folder),
        edge,
        post,
        now: () => new Date(),
      })
      following = startFollowing({
        ...deps,
        edgeId: edge.id,
        identity,
        statements,
        freshness,
        onIdentity: (known) => {
          own = known
          onIdentity(known)
        },
        onApplied: (events) => {
          wanted?.applied(events)
          if (events.some(({ fact }) => fact.type === 'edge' || fact.type === 'edge-deleted'))
            onRoster()
          if (events.some(({ fact }) => fact.type === 'key' && fact.purpose === 'jwt'))
            onTokenKeys?.()
        },
        onStreams: () => {
          onRoster()
          void wanted?.readAgain()
        },
        onReturned: () => wanted?.retry(),
        trouble,
        log,
      })
    },
    async close() {
      await following?.close()
      await wanted?.close()
      await statements.close()
    },
  }
}

/** The one that `outport edge join` made, or one for an edge that the configuration names. */
function identityFolder(folder: string): string {
  const joined = join(folder, 'identity')
  return isThere(joined) ? joined : join(folder, 'own-identity')
}
