import { edgePath, type AdminFlags } from './options.ts'

interface Change {
  readonly method: 'POST' | 'PUT' | 'DELETE'
  /** Behind the edge's own path: `/suspend`. */
  readonly action?: string
  readonly body?: object
  /** What has happened then, for people. */
  readonly done: string
}

/** Changes one edge, and says so. @returns the exit code */
export async function changeEdge(
  flags: AdminFlags & { readonly json: boolean },
  id: string,
  { method, action, body, done }: Change,
): Promise<number> {
  const { withAdminApi } = await import('../../admin-api.ts')
  return withAdminApi(flags, async (api) => {
    const { path, absent } = edgePath(id, action)
    const { text } = await api.call(path, { method, absent, ...(body !== undefined && { body }) })
    printAnswer(text, { json: flags.json, done })
    return 0
  })
}

/** What a change came to: for people, or what the API says, which may be nothing. */
export function printAnswer(
  text: string,
  { json, done }: { readonly json: boolean; readonly done: string },
): void {
  if (!json) process.stdout.write(`${done}\n`)
  else if (text.trim() !== '') process.stdout.write(`${text.trimEnd()}\n`)
}
