import { ApiError } from '../../shared/api/errors.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { manifestsAndBlobsOf } from './preheat-content.ts'
import { isDigest } from '../../shared/oci/digest.ts'
import { isRepositoryName, isTag, type RepositoryName } from '../../shared/oci/reference.ts'
import { covers, type EdgeSelector } from '../../shared/replication/events.ts'
import type { Deed } from '../store/audit.ts'
import type { Catalog } from '../store/catalog.ts'
import type { Manifests } from '../store/manifests.ts'
import type { Preheat, Preheats } from '../store/preheats.ts'
import type { Project } from '../store/projects.ts'
import type { Registries } from '../store/registries.ts'
import type { Roster, RosterMember } from '../store/roster.ts'
import type { PreheatBlob, PreheatOutcome } from '../store/schema.ts'
import type { Tags } from '../store/tags.ts'
import { membersOf } from './edge-group.ts'
import { readPlatforms } from './filters.ts'
import { endOf, outcomeOf, standingOf } from './preheat-progress.ts'

export interface PreheatDeps {
  readonly preheats: Preheats
  readonly catalog: Pick<Catalog, 'get'>
  readonly tags: Pick<Tags, 'resolve'>
  readonly manifests: Pick<Manifests, 'get'>
  readonly registries: Pick<Registries, 'get'>
  readonly roster: Roster
  /** Told when edges have something to hear. */
  readonly onFacts: () => void
  /** Epoch ms. */
  readonly now: () => number
}

/** An image as people name it. */
export interface ImageName {
  readonly repository: RepositoryName
  readonly reference: { readonly tag: string } | { readonly digest: Digest }
}

/** Which edges: those that a group has, or a selector chooses, or of these names. */
export type PreheatTarget =
  | { readonly registryId: number }
  | { readonly selector: EdgeSelector }
  | { readonly names: readonly string[] }

export interface PreheatRequest {
  readonly image: ImageName
  readonly text: string
  readonly project: Pick<Project, 'id'>
  readonly platforms: readonly string[]
  readonly target: PreheatTarget
  /** Whether edges may be named that may not read the project: who may not manage edges knows none of these. */
  readonly seesAllEdges: boolean
  readonly deadline: Date
}

/** A preheat with how it stands now at each edge, in the order of its edges. */
export interface PreheatStanding {
  readonly preheat: Preheat
  readonly edges: readonly PreheatOutcome[]
}

/** Edges that are told of in one event. */
const maxEdges = 5000
const settleMs = 2000

export type PreheatService = ReturnType<typeof createPreheatService>

/** Images that edges are to hold by a deadline. */
export function createPreheatService(deps: PreheatDeps) {
  const { preheats, roster, registries, now } = deps
  let settledAt = -Infinity

  async function standingsOf(preheat: Preheat) {
    const known = await preheats.edges(preheat.edges.map(({ id }) => id))
    return preheat.edges.map(({ id }) => standingOf(preheat, known.get(id), now()))
  }

  /** Ends it if it is over. */
  async function look(preheat: Preheat): Promise<PreheatStanding> {
    if (preheat.outcome !== undefined) return { preheat, edges: preheat.outcome }
    const standings = await standingsOf(preheat)
    const end = endOf(preheat, standings, now())
    if (end === undefined) return { preheat, edges: outcomeOf(standings) }
    const endedAt = new Date(now())
    await preheats.end(preheat.id, end, endedAt)
    return { preheat: { ...preheat, ...end, endedAt }, edges: end.outcome }
  }

  async function edgesOf({ target, project, seesAllEdges }: PreheatRequest) {
    const all = (await roster.list()).filter(
      ({ scope }) => seesAllEdges || covers(scope, project.id),
    )
    const edges = await chosenOf(target, { all, seesAllEdges })
    if (edges.length === 0) throw new ApiError('BAD_REQUEST', 'edges: these are none')
    if (edges.length > maxEdges)
      throw new ApiError('BAD_REQUEST', `edges: these are more than ${maxEdges}`)
    return edges.map(({ edgeId: id, name }) => ({ id, name }))
  }

  async function chosenOf(
    target: PreheatTarget,
    {
      all,
      seesAllEdges,
    }: { readonly all: readonly RosterMember[]; readonly seesAllEdges: boolean },
  ): Promise<readonly RosterMember[]> {
    if ('selector' in target) return membersOf(target.selector, all)
    if ('registryId' in target) {
      const registry = seesAllEdges ? await registries.get(target.registryId) : undefined
      if (registry === undefined)
        throw new ApiError('BAD_REQUEST', `registry_id: there is no registry ${target.registryId}`)
      return membersOf(registry.selector, all)
    }
    const named = target.names.map((name) => {
      const found = all.filter((edge) => edge.name === name || edge.edgeId === name)
      if (found.length === 0) throw new ApiError('BAD_REQUEST', `edges: there is no edge ${name}`)
      return found
    })
    return [...new Set(named.flat())]
  }

  return {
    /**
     * Begins a preheat; of one that runs already, gives that.
     * @throws ApiError NOT_FOUND for no such image, BAD_REQUEST
     */
    async start(request: PreheatRequest, deed: Deed): Promise<{ id: number; isNew: boolean }> {
      const { project, image, text, platforms, deadline } = request
      const repository = await deps.catalog.get(project.id, image.repository)
      const repositoryId = repository?.id ?? 0
      const { reference } = image
      const digest =
        'digest' in reference
          ? reference.digest
          : isTag(reference.tag)
            ? await deps.tags.resolve(repositoryId, reference.tag)
            : undefined
      const blobs =
        digest === undefined || repository === undefined
          ? undefined
          : await manifestsAndBlobsOf({ digest, platforms }, (of) =>
              deps.manifests.get(repositoryId, of),
            )
      if (digest === undefined || blobs === undefined)
        throw new ApiError('NOT_FOUND', `there is no image ${text}`)
      const edges = await edgesOf(request)
      const order = { projectId: project.id, repositoryId, image: text, digest, platforms }
      const started = await preheats.start({ ...order, edges, blobs, deadline }, deed)
      deps.onFacts()
      return started
    },

    /** How it stands now; undefined: there is none. */
    async get(id: number): Promise<PreheatStanding | undefined> {
      const preheat = await preheats.get(id)
      return preheat && look(preheat)
    },

    /** Ends one before its time; one that has ended stays as it is. */
    async stop(preheat: Preheat, deed: Deed): Promise<void> {
      const outcome = outcomeOf(await standingsOf(preheat))
      await preheats.stop(preheat.id, { status: 'Stopped', outcome }, deed)
      deps.onFacts()
    },

    /** Ends those that are over. Call it often: it looks now and again. */
    async settle(): Promise<void> {
      if (now() - settledAt < settleMs) return
      settledAt = now()
      for (const preheat of await preheats.running()) await look(preheat)
    },
  }
}

/**
 * Reads `project/repository`, with `:tag` (else `latest`) or `@digest`.
 * @throws ApiError BAD_REQUEST
 */
export function parseImage(text: string): ImageName {
  const [name = '', digest] = text.split('@')
  const colon = name.lastIndexOf(':')
  const hasTag = colon > name.lastIndexOf('/')
  const repository = hasTag ? name.slice(0, colon) : name
  const tag = hasTag ? name.slice(colon + 1) : 'latest'
  const isRight = isRepositoryName(repository) && repository.includes('/')
  if (!isRight || !(digest === undefined ? isTag(tag) : isDigest(digest)))
    throw new ApiError('BAD_REQUEST', 'image must be project/repository:tag, or …@digest')
  return {
    repository,
    reference: digest === undefined ? { tag } : { digest: digest as Digest },
  }
}

/** @throws ApiError BAD_REQUEST */
export function parsePlatforms(platforms: readonly string[]): readonly string[] {
  try {
    return readPlatforms(platforms)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new ApiError('BAD_REQUEST', `platforms: ${error.message}`, { cause: error })
  }
}

/** Bytes of what an edge holds of it. */
export function heldBytes(
  blobs: readonly PreheatBlob[],
  { isHeld, missing }: PreheatOutcome,
): number {
  if (!isHeld && missing === undefined) return 0
  const lacking = new Set(missing)
  return blobs.reduce((sum, { digest, size }) => (lacking.has(digest) ? sum : sum + size), 0)
}
