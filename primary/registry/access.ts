import { repositoryScope, type Scope } from '../../shared/auth/scope.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { projectOf, type RepositoryName } from '../../shared/oci/reference.ts'
import { isExpired } from '../accounts/account.ts'
import type { Caller, ProjectFacts, RepositoryAction, RepositoryFacts } from '../accounts/caller.ts'
import type { FollowedCache } from '../events/followed-cache.ts'
import type { AccessFacts, LinkedBlob, LookupQuestion, Lookups } from '../store/lookups.ts'
import { projectUnknown } from '../store/repositories.ts'
import type { BlobSource } from '../store/stored-blobs.ts'
import { rightsOf } from '../tokens/grant.ts'

/** Memory may answer "it exists" for this long after a database read. */
const promiseMs = 60_000

/** A link and its copy, as read from the database. */
export interface CachedBlob {
  readonly blob: LinkedBlob
  readonly repository: RepositoryFacts
  /** Milliseconds of `now`. */
  readAt: number
}

export interface AccessDeps {
  readonly lookups: Lookups
  /** Takes a condemned blob back; false when it is gone. */
  readonly revive: (blob: {
    readonly repositoryId: number
    readonly digest: Digest
  }) => Promise<boolean>
  readonly decisions: FollowedCache<AccessFacts>
  readonly links: FollowedCache<CachedBlob>
  /** The `WWW-Authenticate` header that asks for these scopes. */
  readonly challenge: (scopes: readonly Scope[], error?: 'insufficient_scope') => string
  /** Milliseconds. */
  readonly now: () => number
}

export interface AccessRequest {
  readonly caller: Caller
  readonly repository: RepositoryName
  readonly action: RepositoryAction
  readonly digest?: Digest
  /** "It exists" will be promised: the blob is read again if memory has held it for long, and taken back from the collector. */
  readonly promise?: boolean
  /** Whose blob is asked for too: the challenge then names both. */
  readonly mountFrom?: RepositoryName | undefined
}

export interface MountQuestion {
  readonly caller: Caller
  /** Where the blob shall be, too. */
  readonly target: RepositoryName
  readonly from: RepositoryName
  readonly digest: Digest
}

/** What an allowed request may know. */
export interface Grant {
  readonly project: ProjectFacts
  /** undefined when the project has no repository of that name. */
  readonly repository: RepositoryFacts | undefined
  /** undefined when no digest was asked for, or the repository does not have it. */
  readonly blob: LinkedBlob | undefined
}

export type Access = ReturnType<typeof createAccess>

/**
 * Who may do what to which repository: rights by the records as they are now, narrowed by the token. At most one
 * query a request, none when hot. Decided before anything that exists shows in an answer.
 */
export function createAccess(deps: AccessDeps) {
  const { lookups, decisions, links, now } = deps
  const rights = createRights(now)

  const find = async (question: LookupQuestion, promise: boolean) => {
    let running: ReturnType<Lookups['find']> | undefined
    const ask = () => (running ??= lookups.find(question))
    const { caller, repository, digest } = question
    // Both start before the query, so that an event which races it drops what either would keep.
    const [facts, link] = await Promise.all([
      decisions.get(decisionKey(caller, repository), decisionSubjects, async () =>
        keptDecision((await ask()).access),
      ),
      digest === undefined
        ? undefined
        : links.get(`${repository}@${digest}`, linkSubjects, async () =>
            keptLink(await ask(), now()),
          ),
    ])
    const access = facts ?? (await ask()).access
    if (digest === undefined) return { access, blob: undefined }
    if (link === undefined) return { access, blob: (await ask()).blob }
    if (!promise || now() - link.readAt < promiseMs) return { access, blob: link.blob }
    const fresh = await ask()
    if (fresh.blob !== undefined && !fresh.blob.condemned) link.readAt = now()
    return fresh
  }

  /** Only after the caller was found to be allowed: a stranger's request writes nothing. */
  const keep = async (blob: LinkedBlob | undefined, repository: RepositoryFacts | undefined) => {
    if (blob?.condemned !== true || repository === undefined) return blob
    const revived = await deps.revive({ repositoryId: repository.id, digest: blob.digest })
    return revived ? { ...blob, condemned: false } : undefined
  }

  /** What anybody may pull is open to every token too, whatever it was asked for. */
  const mayPull = (
    access: AccessFacts,
    who: { readonly caller: Caller; readonly repository: RepositoryName },
  ): boolean =>
    rights(access, who).has('pull') ||
    rights(asAnybody(access), { ...who, caller: anybody }).has('pull')

  return {
    /**
     * Decides a request.
     * @throws OciError UNAUTHORIZED with the challenge, the same whether or not the repository exists;
     *   NAME_UNKNOWN to an administrator, who may know that the project does not
     */
    async allow(request: AccessRequest): Promise<Grant> {
      const { caller, repository, action, digest, promise = false } = request
      const { access, blob } = await find({ caller, repository, digest }, promise)
      const { project } = access
      if (project === undefined && access.caller?.kind === 'user' && access.caller.admin) {
        throw projectUnknown(repository)
      }
      const allowed = rights(access, { caller, repository }).has(action)
      if (project === undefined || !allowed) throw refusal(request, deps.challenge)
      const { repository: facts } = access
      return { project, repository: facts, blob: promise ? await keep(blob, facts) : blob }
    },

    /**
     * The repository that a mount names, if the caller may pull the blob from it; the mount itself takes a
     * condemned blob back.
     * @returns undefined when there is nothing to mount, or nothing that the caller may know of
     * @throws OciError UNAUTHORIZED that asks for both scopes, when the account may and only its token does not
     */
    async mountSource({
      caller,
      target,
      from,
      digest,
    }: MountQuestion): Promise<RepositoryFacts | undefined> {
      const { access, blob } = await find({ caller, repository: from, digest }, true)
      if (!mayPull(access, { caller, repository: from })) {
        const unnarrowed: Caller = { ...caller, access: undefined }
        if (!mayPull(access, { caller: unnarrowed, repository: from })) return undefined
        const request = { caller, repository: target, action: 'push', mountFrom: from } as const
        throw refusal(request, deps.challenge)
      }
      return blob && access.repository
    },

    /**
     * The first source that the caller may pull from. A token names the repositories that its client thought
     * of, and a mount without `from` leaves the thinking to the registry: within the target's own project, where
     * rights are given for the project as a whole, the account's rights count.
     */
    async firstPullable(
      sources: readonly BlobSource[],
      { caller, target }: { readonly caller: Caller; readonly target: RepositoryName },
    ): Promise<BlobSource | undefined> {
      const { access } = await find({ caller, repository: target, digest: undefined }, false)
      const unnarrowed: Caller = { ...caller, access: undefined }
      return sources.find(({ repository, project, roleId }) => {
        const facts = { caller: access.caller, project, roleId, repository }
        if (mayPull(facts, { caller, repository: repository.name })) return true
        const isOwn = project.id === access.project?.id
        return isOwn && mayPull(facts, { caller: unnarrowed, repository: repository.name })
      })
    },
  }
}

const anybody: Caller = { kind: 'anonymous', access: undefined }

function asAnybody({ project, repository }: AccessFacts): AccessFacts {
  return { caller: { kind: 'anonymous' }, project, roleId: undefined, repository }
}

type Rights = ReadonlySet<RepositoryAction>

/**
 * Rights by facts and token. Facts that a cache holds, and verified tokens, are the same objects from request to
 * request, so what follows from them is remembered with them.
 */
function createRights(now: () => number) {
  const known = new WeakMap<AccessFacts, WeakMap<object, Rights>>()
  const noToken = {}
  return (
    facts: AccessFacts,
    { caller, repository }: { readonly caller: Caller; readonly repository: RepositoryName },
  ): Rights => {
    if (facts.caller !== undefined && isExpired(facts.caller, now())) return new Set()
    let byToken = known.get(facts)
    if (byToken === undefined) known.set(facts, (byToken = new WeakMap()))
    const token = caller.access ?? noToken
    let rights = byToken.get(token)
    if (rights === undefined) {
      rights = rightsOf(facts.caller, facts.project, facts.roleId, caller.access, repository)
      byToken.set(token, rights)
    }
    return rights
  }
}

/** What identifies a caller in keys and records: `user:7`. Anonymous callers own nothing. */
export function accountOf(caller: Caller): string {
  return caller.kind === 'anonymous' ? 'anonymous' : `${caller.kind}:${caller.id}`
}

function decisionKey(caller: Caller, repository: RepositoryName): string {
  return `${accountOf(caller)} ${repository}`
}

/** Absence is not kept: neither of an account, a project and a repository, nor of a role that would be needed. */
function keptDecision(access: AccessFacts): AccessFacts | undefined {
  const { caller, project, repository, roleId } = access
  if (caller === undefined || project === undefined || repository === undefined) return undefined
  const needsRole = caller.kind === 'user' && !caller.admin && !project.public
  return needsRole && roleId === undefined ? undefined : access
}

function decisionSubjects({ caller, project, repository }: AccessFacts): string[] {
  const subjects: string[] = []
  if (project !== undefined) subjects.push(`project:${project.id}`)
  if (repository !== undefined) subjects.push(`repository:${repository.id}`)
  if (caller !== undefined && caller.kind !== 'anonymous') {
    subjects.push(`${caller.kind}:${caller.id}`)
    if (caller.kind === 'user' && project !== undefined) {
      subjects.push(`member:${project.id}:${caller.id}`)
    }
  }
  return subjects
}

function keptLink(
  { access, blob }: { readonly access: AccessFacts; readonly blob: LinkedBlob | undefined },
  readAt: number,
): CachedBlob | undefined {
  if (blob === undefined || blob.condemned || access.repository === undefined) return undefined
  return { blob, repository: access.repository, readAt }
}

function linkSubjects({ blob, repository }: CachedBlob): string[] {
  return [
    `link:${repository.id}:${blob.digest}`,
    `repository:${repository.id}`,
    `project:${repository.projectId}`,
  ]
}

const scopeActions: Readonly<Record<RepositoryAction, readonly string[]>> = {
  pull: ['pull'],
  push: ['pull', 'push'],
  delete: ['delete'],
}

function refusal(request: AccessRequest, challenge: AccessDeps['challenge']): OciError {
  const { caller, repository, action, mountFrom } = request
  const scopes = [repositoryScope(repository, scopeActions[action])]
  if (mountFrom !== undefined) scopes.push(repositoryScope(mountFrom, ['pull']))
  const error = caller.access === undefined ? undefined : 'insufficient_scope'
  return new OciError('UNAUTHORIZED', refusalText(request), {
    detail: scopes.map(({ type, name, actions }) => ({ Type: type, Name: name, Actions: actions })),
    headers: { 'WWW-Authenticate': challenge(scopes, error) },
  })
}

function refusalText({ caller, repository, action }: AccessRequest): string {
  const project = projectOf(repository)
  if (caller.kind === 'anonymous') {
    return `to ${action} ${repository}, log in with an account that may, if it exists`
  }
  const need =
    action === 'pull'
      ? `ask for a role in the project ${project}`
      : `create the project ${project} first if it does not exist, else ask for a role in it that may ${action}`
  return `${caller.name} may not ${action} ${repository}: ${need}`
}
