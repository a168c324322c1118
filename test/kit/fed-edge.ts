import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { waitFor } from './clock.ts'
import { startTestEdge, type TestEdge, type TestEdgeOptions } from './edge.ts'
import { startTestPrimary, type TestPrimary, type TestPrimaryOptions } from './primary.ts'
import { tempFolder } from './temp.ts'

/** A primary, and how to start edges that follow it. */
export interface FedStand {
  readonly primary: TestPrimary
  /** The lines of the primary's log, as they come. */
  readonly primaryLog: readonly Readonly<Record<string, unknown>>[]
  /** What an edge of this id logs in with. */
  secretOf(this: void, id: string): string
  /** Starts an edge of the primary's configuration that follows its log, and waits until it knows all there is. */
  startEdge(
    t: Pick<TestContext, 'after'>,
    options?: TestEdgeOptions & {
      readonly id?: string
      /** The primary is away: nothing is waited for. */
      readonly isAlone?: boolean
    },
  ): Promise<TestEdge>
}

/** Starts a primary that edges of these ids may follow, each with this scope. */
export async function startFedStand(
  t: Pick<TestContext, 'after'>,
  {
    scopes = { one: ['*'] },
    ...options
  }: TestPrimaryOptions & { readonly scopes?: Readonly<Record<string, readonly string[]>> } = {},
): Promise<FedStand> {
  const folder = await tempFolder(t)
  const primaryLog: Readonly<Record<string, unknown>>[] = []
  const secretOf = (id: string) => `secret-of-edge-${id}-with-random-bits`
  const fileOf = (id: string) => join(folder, id)
  for (const id of Object.keys(scopes)) await writeFile(fileOf(id), `${secretOf(id)}\n`)
  const primary = await startTestPrimary({
    ...options,
    onLog: (line) => {
      primaryLog.push(JSON.parse(line) as Readonly<Record<string, unknown>>)
      options.onLog?.(line)
    },
    primary: {
      edges: Object.entries(scopes).map(([id, scope]) => ({
        id,
        credential_file: fileOf(id),
        scope,
        accept_people: true,
      })),
      ...options.primary,
    },
  })
  return {
    primary,
    primaryLog,
    secretOf,
    async startEdge(t, { id = 'one', isAlone = false, ...edgeOptions } = {}) {
      const edge = await startTestEdge(t, {
        ...edgeOptions,
        edge: {
          id,
          credential_file: fileOf(id),
          primary: { url: primary.url.origin },
          follow: true,
          ...edgeOptions.edge,
        },
      })
      if (isAlone) return edge
      await waitFor(
        'the edge to know all there is',
        async () => (await edge.metric('outport_edge_log_fresh')) === 1,
      )
      return edge
    },
  }
}
