import type { TSchema } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { text } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import type { Admitted } from '../accounts/guard.ts'
import type { Deed } from '../store/audit.ts'
import type { EdgeStandings } from '../store/edge-standings.ts'
import type { Edge } from '../store/edges.ts'

export interface StandingRouteDeps {
  readonly standings: EdgeStandings
  readonly deedOf: (admitted: Admitted) => Deed
  /** An edge as the API shows it. */
  readonly model: TSchema
  /** @throws ApiError NOT_FOUND of none */
  readonly answerWith: (
    edge: Edge | undefined,
  ) => Promise<{ readonly status: 200; readonly body: object }>
}

const tag = 'edge'
const byId = Type.Object({ edge_id: text(64) })
const summaries = {
  suspend: 'Give an edge, and who logs in through it, nothing for now',
  drain: 'Have an edge leave: nobody is sent there any more, and it ends what it is sending',
  resume:
    'Let a suspended edge read again, and a draining one serve; one of the configuration that was revoked comes back',
} as const

/** What becomes of edges: they leave, get nothing for now, come back, end, and are forgotten. */
export function standingRoutes(
  api: AdminApi,
  { standings, deedOf, model, answerWith }: StandingRouteDeps,
): void {
  for (const action of ['suspend', 'drain', 'resume'] as const) {
    api.route({
      method: 'POST',
      path: `/edges/:edge_id/${action}`,
      tag,
      summary: summaries[action],
      permission: { of: 'system', permission: 'edge:update' },
      params: byId,
      responses: { 200: model },
      handle: async ({ params, admitted }) => {
        return answerWith(await standings[action](params.edge_id, deedOf(admitted)))
      },
    })
  }

  api.route({
    method: 'DELETE',
    path: '/edges/:edge_id',
    tag,
    summary:
      'Revoke an edge for good: it gets nothing from then on, and its id is never used again. It stays on the list until it is forgotten',
    permission: { of: 'system', permission: 'edge:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      if (!(await standings.revoke(params.edge_id, deedOf(admitted)))) throw noSuchEdge()
      return { status: 200 }
    },
  })

  api.route({
    method: 'POST',
    path: '/edges/:edge_id/forget',
    tag,
    summary: 'Take an edge that was revoked, or that never joined, off the list, and free its name',
    permission: { of: 'system', permission: 'edge:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      if (!(await standings.forget(params.edge_id, deedOf(admitted)))) throw noSuchEdge()
      return { status: 200 }
    },
  })
}

export function noSuchEdge(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such edge')
}
