import type { FastifyInstance } from 'fastify'

/** Tells which methods a path could have been asked by. */
export interface AllowedMethods {
  /** Methods of the routes that match, sorted; empty when none does. */
  of(path: string): readonly string[]
}

interface Route {
  readonly pattern: RegExp
  readonly methods: readonly string[]
}

/**
 * Collects the routes that are registered from here on, so that a path that exists with another method is answered
 * 405 and not 404: fastify's router keeps a tree per method and does not tell.
 */
export function collectAllowedMethods(app: FastifyInstance): AllowedMethods {
  const routes: Route[] = []
  app.addHook('onRoute', ({ url, method }) => {
    routes.push({ pattern: patternOf(url), methods: Array.isArray(method) ? method : [method] })
  })
  return {
    of(path) {
      const matching = routes.filter(({ pattern }) => pattern.test(path))
      return [...new Set(matching.flatMap(({ methods }) => methods))].sort()
    },
  }
}

/** A route's pattern as a regular expression: `:name` is a segment (with an expression behind it or not), `*` the rest. */
function patternOf(url: string): RegExp {
  const source = url
    .split(/(:[A-Za-z0-9_]+(?:\([^)]*\))?|\*)/)
    .map((part, index) => {
      if (index % 2 === 0) return part.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
      return part === '*' ? '.*' : '[^/]+'
    })
    .join('')
  return new RegExp(`^${source}$`)
}
