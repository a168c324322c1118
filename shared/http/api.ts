import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import type { IncomingHttpHeaders } from 'node:http'
import type { Static, TSchema } from 'typebox'
import { Type } from '../schema/type.ts'
import { acceptJson } from './bodies.ts'
import { clientAddressOf } from './forwarded.ts'
import { describeRoutes, type ApiDescription } from './openapi.ts'
import { compileSerializer, compileValidator } from './schemas.ts'

/** A request as the guard sees it, before its body is read. */
export interface ApiRequest {
  readonly method: string
  /** The path and query, as they came. */
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly params: Readonly<Record<string, string>>
  /** The client's address, behind trusted proxies too. */
  readonly address: string
}

/** A request as its handler sees it: allowed, and of the route's schemas. */
export interface ApiCall<Admitted, Params, Query, Body> extends Omit<ApiRequest, 'params'> {
  readonly admitted: Admitted
  readonly params: Params
  readonly query: Query
  readonly body: Body
}

export interface ApiAnswer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string | undefined>>
  readonly body?: unknown
}

/** One operation: what it is called by, who may, what comes in and goes out. */
export interface ApiRoute<Permission, Admitted, Params, Query, Body> {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Below the API's prefix, fastify's form: `/projects/:project_name_or_id`. */
  readonly path: string
  readonly tag: string
  readonly summary: string
  /** Who may call it, and to whom what it touches belongs. */
  readonly permission: Permission
  readonly params?: Params & TSchema
  readonly query?: Query & TSchema
  readonly body?: Body & TSchema
  /** The success statuses and their bodies; `undefined`: no body. */
  readonly responses: Readonly<Record<number, TSchema | undefined>>
  readonly handle: (
    call: ApiCall<Admitted, StaticOf<Params>, StaticOf<Query>, StaticOf<Body>>,
  ) => ApiAnswer | Promise<ApiAnswer>
}

type StaticOf<Schema> = Schema extends TSchema ? Static<Schema> : undefined

export interface ApiOptions<Permission, Admitted> {
  /** `/api/v2.0` */
  readonly prefix: string
  readonly maxBodyBytes: number
  readonly description: ApiDescription
  /**
   * Decides whether the request may go on, by the route's permission, before its body is read.
   * @throws ApiError when not
   */
  readonly admit: (permission: Permission, request: ApiRequest) => Promise<Admitted>
}

export interface Api<Permission, Admitted> {
  /** Adds an operation. The schemas check what comes in, shape what goes out, and make the document. */
  route<
    Params extends TSchema | undefined = undefined,
    Query extends TSchema | undefined = undefined,
    Body extends TSchema | undefined = undefined,
  >(
    route: ApiRoute<Permission, Admitted, Params, Query, Body>,
  ): void
  /** The OpenAPI document; once the server is ready. */
  describe(): object
}

type AnyRoute<Permission, Admitted> = ApiRoute<Permission, Admitted, unknown, unknown, unknown>

/** What every refusal looks like. [harbor src/lib/errors] */
const refusal = Type.Object({
  errors: Type.Array(Type.Object({ code: Type.String(), message: Type.String() })),
})

/** Makes an API of described operations under a prefix. Rooms add theirs before the server is ready. */
export function createApi<Permission, Admitted>(
  app: FastifyInstance,
  options: ApiOptions<Permission, Admitted>,
): Api<Permission, Admitted> {
  const { prefix } = options
  const routes: AnyRoute<Permission, Admitted>[] = []
  let describe = (): object => {
    throw new Error('the API is described once the server is ready')
  }
  void app.register(
    async (scope) => {
      describe = await describeRoutes(scope, options.description)
      acceptJson(scope, { maxBytes: options.maxBodyBytes })
      scope.setValidatorCompiler(compileValidator)
      scope.setSerializerCompiler(compileSerializer)
      for (const route of routes) addRoute(scope, route, options)
    },
    { prefix },
  )
  return {
    route: (route) => {
      routes.push(route)
    },
    describe: () => describe(),
  }
}

function addRoute<Permission, Admitted>(
  scope: FastifyInstance,
  route: AnyRoute<Permission, Admitted>,
  { admit }: ApiOptions<Permission, Admitted>,
): void {
  const admitted = new WeakMap<FastifyRequest, Admitted>()
  scope.route({
    method: route.method,
    url: route.path,
    exposeHeadRoute: false,
    config: { permission: route.permission, swagger: { exposeHeadRoute: true } },
    schema: schemaOf(route),
    onRequest: async (request) => {
      admitted.set(request, await admit(route.permission, viewOf(request)))
    },
    handler: async (request, reply) => {
      const answer = await route.handle({
        ...viewOf(request),
        admitted: admitted.get(request) as Admitted,
        params: request.params,
        query: request.query,
        body: request.body,
      } as unknown as Parameters<typeof route.handle>[0])
      return send(reply, answer)
    },
  })
}

function viewOf(request: FastifyRequest): ApiRequest {
  return {
    method: request.method,
    url: request.raw.url ?? '',
    headers: request.headers,
    params: request.params as Record<string, string>,
    address: clientAddressOf(request.raw),
  }
}

function send(reply: FastifyReply, { status, headers = {}, body }: ApiAnswer): FastifyReply {
  reply.code(status)
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) reply.header(name, value)
  }
  return reply.send(body)
}

function schemaOf<Permission, Admitted>(route: AnyRoute<Permission, Admitted>): FastifySchema {
  const answers = Object.entries(route.responses).map(([status, schema]) => [
    status,
    schema ?? Type.Null({ description: 'done' }),
  ])
  return {
    summary: route.summary,
    tags: [route.tag],
    security: [{ basic: [] }],
    ...(route.params === undefined ? {} : { params: route.params }),
    ...(route.query === undefined ? {} : { querystring: route.query }),
    ...(route.body === undefined ? {} : { body: route.body }),
    response: { ...Object.fromEntries(answers), '4xx': refusal },
  }
}
