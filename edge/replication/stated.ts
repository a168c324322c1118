import type { KeyObject } from 'node:crypto'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Tag } from '../../shared/oci/reference.ts'
import { parseSignedTag } from '../../shared/replication/signed-tag.ts'
import { StatementError } from '../../shared/trust/statement.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { Freshness } from './freshness.ts'
import type { Statements } from '../cache/statements.ts'

/** What the primary's log says of a tag. */
export interface StatedTag {
  /** Undefined: there is no such tag. */
  readonly digest: Digest | undefined
  /** Whether that is all that the primary has said; else it may have moved since. */
  readonly isFresh: boolean
  /** Whether a newer one is on its way, which a rule wants whole before it is answered, or may turn out to. */
  readonly isEarly: boolean
  /** Whether only what the log says may be answered: what is heard elsewhere may be what a rule wants whole. */
  readonly isGuarded: boolean
  /** When it was so, in epoch ms. */
  readonly currentAt: number
  /** Milliseconds since then, beyond which it is not answered without being asked for. */
  readonly maxStaleMs: number
}

/** What the log says of what clients ask for. */
export interface Stated {
  /** Undefined where the log says nothing: another upstream, or a project that is not known here. */
  tag(origin: Origin, tag: Tag): StatedTag | undefined
  /** Whether the log speaks against giving a manifest by its digest: it was deleted, or its project is gone. */
  isDenied(origin: Origin, digest: Digest): boolean
  /** Records what the primary said of a tag, where it signed when that was so; what may not be believed is passed by. */
  take(origin: Origin, signed: string): Promise<void>
}

export interface StatedDeps {
  /** The primary's id in the table of upstreams. */
  readonly upstream: string
  readonly statements: Statements
  readonly freshness: Pick<Freshness, 'isFresh'>
  /** A tag may not name this manifest yet: a rule says that all of it has to be here first. */
  readonly keyOf: (kid: string) => KeyObject | undefined
  readonly isIncomplete: (repositoryId: number, digest: Digest) => boolean
  /** A tag that moved by this event may turn out to be one that a rule wants whole. */
  readonly isGuarded: (repository: string, tag: string, movedSeq: number) => boolean
  readonly now: () => number
}

/** Of a project that not everybody may read: DESIGN §4. */
const privateStaleMs = 24 * 3_600_000

export function createStated({
  upstream,
  statements,
  freshness,
  keyOf,
  isIncomplete,
  isGuarded,
  now,
}: StatedDeps): Stated {
  /** Which image a tag may name: the one before stays until all of a new one is here. */
  const whichOf = (
    {
      projectId,
      repositoryId,
    }: { readonly projectId: number; readonly repositoryId: number | undefined },
    repository: string,
    tag: string,
  ): Pick<StatedTag, 'digest' | 'isEarly'> => {
    if (repositoryId === undefined) return { digest: undefined, isEarly: false }
    const said = statements.tag(projectId, repositoryId, tag)
    if (said === undefined) return { digest: undefined, isEarly: false }
    const { digest, unfollowed = 0, before } = said
    const isIn = (of: Digest) => isIncomplete(repositoryId, of)
    const isOpen = unfollowed > statements.followedSeq && isGuarded(repository, tag, unfollowed)
    if (!isOpen && !isIn(digest)) return { digest, isEarly: false }
    const last = before === undefined || isIn(before) ? undefined : before
    return { digest: last ?? statements.heldTag(projectId, repositoryId, tag), isEarly: true }
  }

  return {
    tag({ upstream: of, repository, project: projectId }, tag) {
      if (of !== upstream || projectId === undefined) return undefined
      const project = statements.project(projectId)
      const isFresh = freshness.isFresh()
      const currentAt = isFresh ? now() : statements.currentAt
      if (statements.isGone(projectId))
        return {
          digest: undefined,
          isFresh: true,
          isEarly: false,
          isGuarded: false,
          currentAt,
          maxStaleMs: 0,
        }
      if (project === undefined) return undefined
      const place = { projectId, repositoryId: statements.repositoryId(projectId, repository) }
      return {
        ...whichOf(place, repository, tag),
        isFresh,
        currentAt,
        isGuarded: isGuarded(repository, tag, Infinity),
        maxStaleMs: project.public ? Infinity : privateStaleMs,
      }
    },
    async take({ upstream: of, project, repository: asked }, signed) {
      if (of !== upstream) return
      try {
        const said = parseSignedTag(signed, keyOf)
        const { projectId, repositoryId, repository, tag } = said
        // Another one's, however true it is, says nothing of what was asked for.
        if (projectId !== project || repository !== asked) return
        const { digest, epoch, seq, waiting } = said
        const statement = { digest, epoch, seq, ...(waiting && { waiting }) }
        await statements.putTag({ projectId, repositoryId, repository, tag }, statement)
      } catch (error) {
        if (!(error instanceof StatementError)) throw error
      }
    },
    isDenied({ upstream: of, repository, project: projectId }, digest) {
      if (of !== upstream || projectId === undefined) return false
      if (statements.isGone(projectId)) return true
      if (statements.project(projectId) === undefined) return false
      const repositoryId = statements.repositoryId(projectId, repository)
      return repositoryId === undefined || !statements.hasManifest(projectId, repositoryId, digest)
    },
  }
}
