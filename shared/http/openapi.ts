import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'

export interface ApiDescription {
  readonly title: string
  readonly version: string
  readonly description: string
}

/**
 * Has the routes that this scope registers from now on described by their schemas.
 * @returns the OpenAPI document, once the server is ready
 */
export async function describeRoutes(
  scope: FastifyInstance,
  { title, version, description }: ApiDescription,
): Promise<() => object> {
  await scope.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title, version, description },
      components: { securitySchemes: { basic: { type: 'http', scheme: 'basic' } } },
    },
  })
  return () => scope.swagger()
}
