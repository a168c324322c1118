import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, never, pageParameters, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { formatPageLinks, parsePage } from '../../shared/api/paging.ts'
import { parseDuration } from '../../shared/config/units.ts'
import { projectOf } from '../../shared/oci/reference.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import { projectNamed, type Admitted, type Guard } from '../accounts/guard.ts'
import { isAllowedInSystem } from '../accounts/permissions.ts'
import { preheatFields, type Preheat, type Preheats } from '../store/preheats.ts'
import type { Project, Projects } from '../store/projects.ts'
import type { PreheatOutcome } from '../store/schema.ts'
import { checkSelector } from './edge-group.ts'
import {
  heldBytes,
  parseImage,
  parsePlatforms,
  type PreheatService,
  type PreheatTarget,
} from './preheats.ts'
import { readSelector, selectorModel } from './registry-model.ts'

export interface PreheatRouteDeps {
  readonly preheats: PreheatService
  readonly preheatList: Pick<Preheats, 'list'>
  readonly projects: Pick<Projects, 'find' | 'namesOf'>
  readonly guard: Pick<Guard, 'requireOwner'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'preheat'
const byId = Type.Object({ id: text(20) })
const longestMs = 24 * 3_600_000
const usualMs = 3_600_000

const preheatBody = Type.Object({
  image: text(512, { description: '`project/repository:tag`, or `@digest`.' }),
  platforms: Type.Optional(
    Type.Array(text(64), {
      maxItems: 100,
      description: '`os/architecture[/variant]`; all if left out.',
    }),
  ),
  edges: Type.Optional(
    Type.Union([Type.Array(text(255), { minItems: 1, maxItems: 1000 }), selectorModel], {
      description: 'Names or ids, or a selector as a group of edges has it.',
    }),
  ),
  registry_id: Type.Optional(Type.Integer({ description: 'A group of edges, instead.' })),
  deadline: Type.Optional(
    text(64, { description: 'A duration (`10m`), or a time (RFC 3339); an hour if left out.' }),
  ),
})

const summaryFields = {
  id: Type.Integer(),
  image: Type.String(),
  project_id: Type.Integer(),
  digest: Type.String(),
  platforms: Type.Array(Type.String()),
  status: Type.String({ description: '`Running`, `Succeed`, `Failed` or `Stopped`' }),
  start_time: timestamp,
  deadline: timestamp,
  end_time: timestamp,
  creator: Type.String(),
  total: Type.Integer({ description: 'Edges.' }),
  blobs: Type.Integer({ description: 'Manifests and blobs that each of them has to hold.' }),
  bytes: Type.Integer({ description: 'Of all of those.' }),
}

const preheatModel = Type.Object({
  ...summaryFields,
  held: Type.Integer({ description: 'Edges that hold all of it.' }),
  edges: Type.Array(
    Type.Object({
      id: Type.String(),
      name: Type.String(),
      status: Type.String({ description: '`held`, `fetching`, or `missing` once it has ended' }),
      reason: Type.String({ description: 'Why it does not hold all of it.' }),
      held_bytes: Type.Integer(),
      blobs: Type.Array(
        Type.Object({ digest: Type.String(), size: Type.Integer(), status: Type.String() }),
      ),
    }),
    { description: 'One page of them; `X-Total-Count` says how many there are.' },
  ),
})

/** Images that edges are to hold by a deadline: `/preheat`. */
export function preheatRoutes(api: AdminApi, deps: PreheatRouteDeps): void {
  const { preheats, preheatList, projects, guard, now } = deps
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** Who may run replication may preheat anything, who administers a project its images. @throws ApiError */
  async function requireProject(
    admitted: Admitted,
    action: 'create' | 'read',
    key: NonNullable<Parameters<Projects['find']>[0]>,
  ): Promise<Pick<Project, 'id'>> {
    if (isAllowedInSystem(admitted.facts, `replication:${action}`)) {
      const project = await projects.find(key, undefined)
      if (project === undefined) throw new ApiError('NOT_FOUND', 'there is no such project')
      return project
    }
    const project = await guard.requireOwner(admitted, `preheat-policy:${action}`, key)
    if (project === undefined) throw new Error('a project was asked for')
    return project
  }

  /** @throws ApiError NOT_FOUND to who may know that it is not there */
  async function find(
    admitted: Admitted,
    { id }: { readonly id: string },
    action: 'create' | 'read',
  ) {
    const number = /^[0-9]{1,15}$/.test(id) ? Number(id) : 0
    const found = await preheats.get(number)
    if (found === undefined) {
      if (!isAllowedInSystem(admitted.facts, `replication:${action}`))
        await guard.requireOwner(admitted, `preheat-policy:${action}`, 'system')
      throw new ApiError('NOT_FOUND', 'there is no such preheat')
    }
    await requireProject(admitted, action, { id: found.preheat.projectId })
    return found
  }

  api.route({
    method: 'GET',
    path: '/preheat',
    tag,
    summary: 'List preheats',
    permission: { of: 'system', permission: 'replication:list' },
    query: Type.Object(listParameters),
    responses: { 200: Type.Array(Type.Object(summaryFields)) },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, preheatFields)
      const { rows, total } = await preheatList.list(listing)
      return listAnswer(rows.map(showSummary), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/preheat',
    tag,
    summary: 'Have edges fetch an image by a deadline; the same one that runs is not begun again',
    permission: { of: 'named', permission: 'preheat-policy:create' },
    body: preheatBody,
    responses: {
      200: Type.Object({ id: Type.Integer() }),
      201: Type.Object({ id: Type.Integer() }),
    },
    handle: async ({ body, admitted }) => {
      const image = parseImage(body.image)
      const key = projectNamed(projectOf(image.repository)) ?? { name: '' }
      const project = await requireProject(admitted, 'create', key)
      const { id, isNew } = await preheats.start(
        {
          image,
          text: body.image,
          project,
          platforms: parsePlatforms(body.platforms ?? []),
          target: readTarget(body),
          seesAllEdges: isAllowedInSystem(admitted.facts, 'replication:create'),
          deadline: readDeadline(body.deadline, now()),
        },
        deedOf(admitted),
      )
      const headers = { Location: `${apiPrefix}/preheat/${id}` }
      return { status: isNew ? 201 : 200, headers, body: { id } }
    },
  })

  api.route({
    method: 'GET',
    path: '/preheat/:id',
    tag,
    summary: 'Get a preheat, with how it stands at each edge',
    permission: { of: 'named', permission: 'preheat-policy:read' },
    params: byId,
    query: Type.Object(pageParameters),
    responses: { 200: preheatModel },
    handle: async ({ params, query, url, admitted }) => {
      const page = parsePage(query)
      const { preheat, edges } = await find(admitted, params, 'read')
      const shown = edges
        .map((outcome, index) => showEdge(preheat, outcome, index))
        .slice(page.offset, page.offset + page.size)
      const total = edges.length
      return {
        status: 200,
        headers: { 'X-Total-Count': String(total), Link: formatPageLinks(url, page, total) },
        body: {
          ...showSummary(preheat),
          held: edges.filter(({ isHeld }) => isHeld).length,
          edges: shown,
        },
      }
    },
  })

  api.route({
    method: 'PUT',
    path: '/preheat/:id',
    tag,
    summary: 'Stop a preheat: edges fetch nothing more for it and keep nothing for it',
    permission: { of: 'named', permission: 'preheat-policy:create' },
    params: byId,
    body: Type.Object({ status: Type.Literal('Stopped') }),
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      const { preheat } = await find(admitted, params, 'create')
      await preheats.stop(preheat, deedOf(admitted))
      return { status: 200 }
    },
  })
}

/** @throws ApiError BAD_REQUEST */
function readTarget({
  edges,
  registry_id: registryId,
}: {
  readonly edges?: readonly string[] | Parameters<typeof readSelector>[0]
  readonly registry_id?: number
}): PreheatTarget {
  if ((edges === undefined) === (registryId === undefined))
    throw new ApiError('BAD_REQUEST', 'edges or registry_id must say which edges, one of them')
  if (registryId !== undefined) return { registryId }
  if (isNames(edges)) return { names: edges }
  const selector = readSelector(edges ?? {})
  checkSelector(selector)
  return { selector }
}

function isNames(edges: unknown): edges is readonly string[] {
  return Array.isArray(edges)
}

/** @param now epoch ms @throws ApiError BAD_REQUEST */
function readDeadline(given: string | undefined, now: number): Date {
  const ms = given === undefined ? usualMs : parseDuration(given)
  const at = ms === undefined ? Date.parse(given ?? '') : now + ms
  if (at > now && at <= now + longestMs) return new Date(at)
  throw new ApiError(
    'BAD_REQUEST',
    'deadline must be a duration like 10m, or a time like 2026-01-31T12:00:00Z, within 24h from now',
  )
}

function showSummary(preheat: Preheat) {
  const { id, image, projectId, digest, platforms, status, creator, blobs } = preheat
  return {
    id,
    image,
    project_id: projectId,
    digest,
    platforms,
    status,
    start_time: preheat.startedAt.toISOString(),
    deadline: preheat.deadline.toISOString(),
    end_time: preheat.endedAt?.toISOString() ?? never,
    creator,
    total: preheat.edges.length,
    blobs: blobs.length,
    bytes: blobs.reduce((sum, { size }) => sum + size, 0),
  }
}

function showEdge({ edges, blobs, status }: Preheat, outcome: PreheatOutcome, index: number) {
  const { isHeld, reason, missing } = outcome
  const lacking = status === 'Running' ? 'fetching' : 'missing'
  const told = missing === undefined ? undefined : new Set(missing)
  const { id = '', name = '' } = edges[index] ?? {}
  return {
    id,
    name,
    status: isHeld ? 'held' : lacking,
    reason,
    held_bytes: heldBytes(blobs, outcome),
    blobs: blobs.map(({ digest, size }) => {
      const isMissing = told === undefined ? !isHeld : told.has(digest)
      return { digest, size, status: isMissing ? lacking : 'held' }
    }),
  }
}
