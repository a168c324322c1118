import type { FastifyInstance } from 'fastify'

/**
 * Has every route that is added from here on declare who may call it, as `config.permission`, in the words of whoever
 * decides: nothing is open because somebody forgot.
 * @throws Error, while routes are added, for one that declares nothing
 */
export function requirePermissions(app: FastifyInstance): void {
  app.addHook('onRoute', ({ url, method, config }) => {
    if (config !== undefined && config.permission !== undefined) return
    throw new Error(`the route ${String(method)} ${url} does not declare its permission`)
  })
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may call the route. */
    permission?: unknown
  }
}
