import { isRecord } from '../../../shared/config/record.ts'
import type { AdminApi } from '../../admin-api.ts'
import { onOneLine } from '../../one-line.ts'
import { edgePath } from './options.ts'

/** What whoever has the machine of an edge may have read, and who may have shown it a secret. */
export interface ShownExposure {
  readonly projects: readonly string[]
  readonly robots: readonly ShownRobot[]
  readonly acceptPeople: boolean
}

export interface ShownRobot {
  readonly id: number
  readonly name: string
}

/** Asks the primary. @returns what it answers, too */
export async function askForExposure(
  api: AdminApi,
  id: string,
): Promise<{ readonly exposure: ShownExposure; readonly json: unknown }> {
  const { path, absent } = edgePath(id, '/exposure')
  const { json } = await api.call(path, { absent })
  return { exposure: readExposure(json), json }
}

function readExposure(value: unknown): ShownExposure {
  const fields = isRecord(value) ? value : {}
  const { projects, robots } = fields
  return {
    projects: Array.isArray(projects) ? projects.map(String) : [],
    robots: Array.isArray(robots) ? robots.flatMap(readRobot) : [],
    acceptPeople: fields['accept_people'] === true,
  }
}

function readRobot(value: unknown): readonly ShownRobot[] {
  const { id, name } = isRecord(value) ? value : {}
  return typeof id === 'number' && typeof name === 'string' ? [{ id, name: onOneLine(name) }] : []
}

/** For people: a few lines. */
export function formatExposure(
  id: string,
  { projects, robots, acceptPeople }: ShownExposure,
): string {
  const lines = [
    projects.length === 0
      ? `The edge '${id}' may read no project.`
      : `The edge '${id}' may read what is in ${projects.map(onOneLine).join(', ')}.`,
  ]
  if (robots.length > 0) {
    lines.push('These robots may pull there, and may have shown it their secrets:')
    lines.push(...robots.map(({ name }) => `  ${name}`))
  }
  if (acceptPeople)
    lines.push('People may log in through it: it saw the passwords of those who did.')
  return `${lines.join('\n')}\n`
}
