#!/usr/bin/env node
// Parses LogQL by Grafana's own grammar. Standard input: a JSON array of expressions. Standard output: for each of them
// `errors`, the places that do not parse; `labels`, the names of all labels in it; `filter`, the lines that it selects.
//
// A filter is {label, operator, value}, {streams: [FILTER…]} of a selector, {all: [FILTER…]}, {any: [FILTER…]}, or {stage}
// for anything else.
import { readFileSync } from 'node:fs';
import { parser } from '@grafana/lezer-logql';

const children = node => {
  const found = [];
  for (let child = node.firstChild; child; child = child.nextSibling) found.push(child);
  return found;
};

function parse(text) {
  const of = node => text.slice(node.from, node.to);
  const errors = [];
  const labels = new Set();
  const all = [];

  const matcher = node => {
    const [label, operator, value] = children(node).map(of);
    // Strings in double quotes are as in JSON, except for some escapes. JSON.parse fails on those.
    return { label, operator, value: value.startsWith('`') ? value.slice(1, -1) : JSON.parse(value) };
  };
  const filter = node => {
    const inner = children(node);
    if (inner.length === 1 && inner[0].name === 'Matcher') return matcher(inner[0]);
    if (inner.length === 1 && inner[0].name === 'LabelFilter') return filter(inner[0]);
    const parts = inner.filter(part => part.name === 'LabelFilter').map(filter);
    return parts.length !== 2 ? { stage: of(node) } : inner[1].name === 'Or' ? { any: parts } : { all: parts };
  };

  const tree = parser.parse(text);
  tree.iterate({
    enter({ type, node }) {
      if (type.isError) errors.push({ at: node.from, text: of(node) });
      if (type.name === 'Identifier') labels.add(of(node));
    },
  });
  if (errors.length === 0) {
    tree.iterate({
      enter({ type, node }) {
        if (type.name === 'Selector') {
          const streams = [];
          tree.iterate({
            from: node.from,
            to: node.to,
            enter: inner => { if (inner.name === 'Matcher') streams.push(matcher(inner.node)); },
          });
          all.push({ streams });
        }
        if (type.name !== 'PipelineStage') return true;
        const stage = node.getChild('LabelFilter');
        all.push(stage ? filter(stage) : { stage: of(node) });
        return false;
      },
    });
  }
  return { errors, labels: [...labels], filter: { all } };
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(parse)));
