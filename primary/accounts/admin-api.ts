import type { FastifyInstance } from 'fastify'
import { createApi, type Api } from '../../shared/http/api.ts'
import type { Admitted, Guard, RoutePermission } from './guard.ts'

/** Where the admin API lives: Harbor's place, which scripts know. */
export const apiPrefix = '/api/v2.0'

/** The admin API: every room adds its operations to it. */
export type AdminApi = Api<RoutePermission, Admitted>

/** Makes the admin API on a server; rooms add their routes before the server is ready. */
export function createAdminApi(
  app: FastifyInstance,
  options: {
    readonly guard: Guard
    readonly version: string
    readonly maxBodyBytes: number
  },
): AdminApi {
  return createApi(app, {
    prefix: apiPrefix,
    maxBodyBytes: options.maxBodyBytes,
    admit: (permission, request) => options.guard.admit(permission, request),
    description: {
      title: 'Outport',
      version: options.version,
      description: "The admin API, with Harbor's paths, bodies and status codes.",
    },
  })
}
