import type { FastifyInstance } from 'fastify'
import type { ClientEdges } from './client-edges.ts'

/** What machines that pull may know of the edges: nobody has to log in, because nothing is in it that is not to be known. */
export function clientEdgeRoutes(
  app: FastifyInstance,
  { clientEdges }: { readonly clientEdges: ClientEdges },
): void {
  app.get(
    '/service/edges',
    { config: { permission: { of: 'nobody' } } },
    async (_request, reply) => {
      return reply
        .header('Cache-Control', 'no-store')
        .type('application/json')
        .send(JSON.stringify({ edges: await clientEdges.list() }))
    },
  )
}
